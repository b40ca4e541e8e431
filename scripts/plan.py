"""Say what every member of a sweep costs, before anything is trained.

  python scripts/plan.py experiment=extrapolation scale=paper data=wikitext103 plan.hardware=A100
  python scripts/plan.py experiment=extrapolation scale=small plan.measure=true
  python scripts/plan.py position=t5,alibi train_length=64,128 plan.tokens_per_second=20000

Takes the settings of scripts/sweep.py. Hours are those of named hardware (plan.devices of
plan.hardware, at plan.efficiency of its data sheet), of a known speed (plan.tokens_per_second in
training the first member; the others by their operations), or as measured on this machine in a few
steps of each (plan.measure). Nothing is tokenized: counts that
depend on the text are `?` until scripts/prepare.py has run.
"""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from alibi_lm.benchmark.costs import HEAD, Meter, PlanConfig, Text, machines, plan_lines, text_of
from alibi_lm.cli import Composed, command, compose_all
from alibi_lm.errors import SettingsError
from alibi_lm.machine.memory import fail_when_memory_runs_out
from alibi_lm.machine.progress import say
from alibi_lm.report.tables import Table, markdown


class Plan:
    """The members of a sweep, which are counted instead of launched."""

    def __init__(self) -> None:
        self.members: list[tuple[PlanConfig, tuple[str, ...]]] = []

    def check(self, composed: list[Composed]) -> None:
        """Compose every member; a SettingsError if any of them cannot be."""
        self.members = compose_all(composed, PlanConfig)
        if any(config.plan != self.members[0][0].plan for config, _ in self.members):
            raise SettingsError(["plan: given several machines; plan for one at a time"])

    def __call__(self, values: DictConfig) -> None:
        """No member is run."""

    def run(self, launch: Callable[[], Any]) -> None:
        """Print a line for each member, and what will not fit."""
        fail_when_memory_runs_out()  # small models are run to be measured
        configs, meter = [config for config, _ in self.members], Meter()
        texts = _texts(configs)
        planned_for = machines(configs, texts, meter)
        body, notes = plan_lines(self._labels(), configs, texts, meter, planned_for)
        say(markdown(Table(HEAD, body, texts=1)))
        names = dict.fromkeys(machine.name for machine in planned_for)
        hours = "hours on " + "; ".join(names)
        say(
            "\n"
            + (
                hours
                if names
                else "for hours give plan.hardware, plan.tokens_per_second or plan.measure=true"
            )
        )
        for note in notes:
            say(f"warning: {note}")

    def _labels(self) -> list[str]:
        """Scheme, length and seed of each, and whatever else differs between them."""
        overrides = [words for _, words in self.members]
        shared = set(overrides[0]).intersection(*overrides)
        shown = ("position=", "train_length=", "seed=")
        labels = []
        for config, words in self.members:
            own = [w for w in words if w not in shared and not w.startswith(shown)]
            chosen = [w.removeprefix("position=") for w in words if w.startswith("position=")]
            scheme = chosen[0] if chosen else config.position.kind
            label = f"{scheme} L{config.train_length} s{config.seed}"
            labels.append(" ".join([label, *own]))
        return labels


def _texts(configs: list[PlanConfig]) -> list[Text]:
    """What is known of each member's text; those that share it read and hash it once."""
    known: dict[str, Text] = {}
    keys = [repr((c.data, c.tokenizer, c.cache, c.evaluation.split)) for c in configs]
    for key, config in zip(keys, configs, strict=True):
        if key not in known:
            known[key] = text_of(config)
    return [known[key] for key in keys]


if __name__ == "__main__":
    command(__doc__, PlanConfig, Plan())
