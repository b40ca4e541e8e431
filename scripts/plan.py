"""Say what every member of a sweep costs, before anything is trained.

  python scripts/plan.py experiment=extrapolation scale=paper data=wikitext103 --hardware A100
  python scripts/plan.py experiment=extrapolation scale=small --measure
  python scripts/plan.py position=t5,alibi train_length=64,128 seed=0,1 --tokens-per-second 20000

Takes the settings of scripts/sweep.py. Hours are those of named hardware (--devices of --hardware,
at --efficiency of its data sheet), of a known speed (--tokens-per-second in training the first
member; the others by their operations), or as measured on this machine in a few steps of each
(--measure). Nothing is tokenized: what only the text knows shows once scripts/prepare.py has run.
"""

import argparse

from alibi_lm.benchmark.costs import (
    Machine,
    Text,
    known_speed,
    named_machine,
    table,
    text_of,
    this_machine,
)
from alibi_lm.benchmark.hardware import DATA_SHEETS
from alibi_lm.cli import check_overrides, run_cleanly
from alibi_lm.config import Config
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.machine.progress import bar, say
from alibi_lm.markdown import markdown
from alibi_lm.runs.plan import Member, plan


def main() -> None:
    """Read the options, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="settings of scripts/sweep.py")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--hardware", choices=DATA_SHEETS, help="GPUs")
    speed.add_argument("--tokens-per-second", type=float, help="known speed of training")
    speed.add_argument("--measure", action="store_true", help="time a few steps here")
    parser.add_argument("--devices", type=int, default=1, help="how many GPUs (default 1)")
    parser.add_argument(
        "--efficiency", type=float, default=0.35, help="of the data sheet (default 0.35)"
    )
    arguments = parser.parse_intermixed_args()
    run_cleanly(lambda: estimate(arguments))


def estimate(arguments: argparse.Namespace) -> None:
    """Compose every member, count what it costs, print the table and what will not fit."""
    for option in ("tokens_per_second", "devices", "efficiency"):
        if (given := getattr(arguments, option)) is not None and given <= 0:
            raise UserError(f"--{option.replace('_', '-')}: given {given}, but it must be above 0")
    if arguments.measure and arguments.devices != 1:
        raise UserError("--devices: goes with --hardware or --tokens-per-second, not --measure")
    check_overrides(arguments.settings, may_sweep=True)
    members = plan(arguments.settings)
    configs = [member.config for member in members]
    for config in configs:
        if problems := config.sharing_problems(arguments.devices):
            raise SettingsError(problems)
    texts = _texts(configs)
    machines = _machines(arguments, configs, texts)
    costs, notes = table(_labels(members), configs, texts, machines, arguments.devices)
    say(markdown(costs))
    names = dict.fromkeys(machine.name for machine in machines if machine)
    say("\nhours on " + "; ".join(names) if names else "\nname --hardware or --measure for hours")
    for note in notes:
        say(f"warning: {note}")


def _texts(configs: list[Config]) -> list[Text]:
    """What is known of each member's text, which those that share it read and hash once."""
    known: dict[str, Text] = {}
    keys = [repr((c.data, c.tokenizer, c.cache, c.evaluation.split)) for c in configs]
    for key, config in zip(keys, configs, strict=True):
        if key not in known:
            known[key] = text_of(config)
    return [known[key] for key in keys]


def _labels(members: list[Member]) -> list[str]:
    """Scheme, length and seed of each, and whatever else differs between them."""
    shared = set(members[0].overrides).intersection(*(member.overrides for member in members))
    shown = ("position=", "train_length=", "seed=")
    return [
        " ".join(
            [
                f"{member.config.position.name} L{member.config.train_length} "
                f"s{member.config.seed}",
                *(o for o in member.overrides if o not in shared and not o.startswith(shown)),
            ]
        )
        for member in members
    ]


def _machines(
    arguments: argparse.Namespace, configs: list[Config], texts: list[Text]
) -> list[Machine | None]:
    if arguments.hardware:
        n_devices, efficiency = arguments.devices, arguments.efficiency
        return [
            named_machine(arguments.hardware, n_devices, efficiency, config) for config in configs
        ]
    if arguments.tokens_per_second:
        rate, n_devices = arguments.tokens_per_second, arguments.devices
        return [known_speed(configs[0], texts[0], rate, n_devices)] * len(configs)
    if not arguments.measure:
        return [None] * len(configs)
    measured: dict[str, Machine] = {}
    with bar(total=len(configs), desc="measure", unit="run") as progress:
        for config, text in zip(configs, texts, strict=True):
            if (key := _speed_key(config)) not in measured:
                measured[key] = this_machine(config, text)
            progress.update()
    return [measured[_speed_key(config)] for config in configs]


def _speed_key(config: Config) -> str:
    """What decides how fast a run is."""
    how = (config.dtype, config.backend, config.checkpointing, config.tokenizer, config.optim)
    return repr((config.position, config.model, config.train_length, *how))


if __name__ == "__main__":
    main()
