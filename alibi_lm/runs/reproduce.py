"""Making a run again from its folder, and comparing everything that can be the same.

If `deterministic` (by default on a CPU), the same code, packages, processor and threads give the
same numbers bit for bit; what differs in those stands beside the verdict. Rows are scored with the
training's threads and the run's own `evaluation.batch_tokens`: rows that were scored with others
may differ in their last digits although the weights do not.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alibi_lm.attention import Circumstances
from alibi_lm.errors import UserError
from alibi_lm.evaluation.rows import COMPLETE, Result
from alibi_lm.machine import processes
from alibi_lm.machine.device import resolve_device
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.provenance import differences, environment
from alibi_lm.runs.curve import read_curve
from alibi_lm.runs.evaluate import evaluate_run
from alibi_lm.runs.folder import Run, RunFolder, load_run
from alibi_lm.runs.plan import check_backend, plan_run
from alibi_lm.runs.readings import reading
from alibi_lm.runs.train import train_run
from alibi_lm.settings import out_of_bounds, setting

VERDICT = "reproduction.json"
# Columns that say where, when and how fast, not what came out.
CIRCUMSTANCES = {"seconds", "run", "commit", "dirty", "torch", "device", "identity"}


@dataclass
class ReproduceConfig:
    """Which run is made again, and where."""

    run: str = setting("", "folder of the trained run")
    output: str = setting("outputs/reproduced", "folder for the run that is made again")

    def problems(self) -> list[str]:
        """There must be a run."""
        problems = out_of_bounds(self)
        for key, example in (("run", "outputs/repro/runs/NAME"), ("output", "outputs/reproduced")):
            if not getattr(self, key):
                problems.append(f"{key}: not given; name a folder, e.g. {key}={example}")
        return problems


@dataclass(frozen=True)
class Comparison:
    """One part of a run beside the same part made again."""

    part: str
    compared: str  # how much of it there is
    difference: str | None  # the first one; None if there is none


@dataclass(frozen=True)
class Reproduction:
    """A run made again."""

    again: Run
    circumstances: list[str]  # what differs around it
    comparisons: list[Comparison]

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return all(comparison.difference is None for comparison in self.comparisons)


def reproduce(settings: ReproduceConfig) -> Reproduction:
    """Train and evaluate a run again in a fresh folder, and compare.

    A UserError if the folder is not a trained run, its text has changed, or its manifest does not
    say how it was made.
    """
    folder, output = Path(settings.run), Path(settings.output)
    original = load_run(folder)
    training = original.training
    original.read_weights()  # damaged ones are refused before anything is trained
    sessions = original.sessions()
    if not sessions:
        raise UserError(f"{folder / 'manifest.json'} does not say how the run was made")
    made = sessions[-1]
    if made["processes"] != processes.world_size():
        raise UserError(
            f"{folder} was trained by {made['processes']} processes, but here are "
            f"{processes.world_size()}; use torchrun --nproc-per-node={made['processes']}"
        )
    for row in (result.row for result in _complete(original)):
        where = Circumstances(resolve_device("auto").type)
        read = replace(training, position=reading(training, row.changes))
        check_backend(read, _forced(row.backend), where, row.eval_length, row.window)
    processes.init()
    torch.set_num_threads(made["threads"])  # another number adds in another order
    config = replace(
        training,
        output=str(output),
        run=processes.on_rank_zero(lambda: _fresh(output, folder.resolve().name)),
        deterministic=made["deterministic"],
    )
    again = plan_run(config)
    train_run(again)
    _evaluate(original, again)
    made_again = Reproduction(
        again, list(_circumstances(sessions, again)), list(_comparisons(original, again))
    )
    verdict = {
        "original": str(folder.resolve()),
        "identical": made_again.identical,
        "not_the_same": made_again.circumstances,
        "comparisons": [asdict(comparison) for comparison in made_again.comparisons],
    }
    if processes.is_rank_zero():
        write_atomically(again.path / VERDICT, json.dumps(verdict, indent=2) + "\n")
    return made_again


def _fresh(output: Path, name: str) -> str:
    """A folder without a verdict; one that an interrupted reproduction left is continued."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(n for n in names if not (output / "runs" / n / VERDICT).exists())


def _complete(folder: RunFolder) -> list[Result]:
    return [result for result in folder.results().values() if result.row.status == COMPLETE]


def _forced(backend: str) -> str:
    """What makes attention run on a row's backend; layers that differ, auto chooses again."""
    return "auto" if "+" in backend else backend


def _evaluate(original: Run, again: Run) -> None:
    """Measure whatever was measured of the original, with the same backends."""
    for backend, results in itertools.groupby(
        _complete(original), key=lambda result: result.row.backend
    ):
        run = replace(again, config=replace(again.config, backend=_forced(backend)))
        evaluate_run(run, [result.row.measurement for result in results])


def _circumstances(sessions: list[dict[str, Any]], again: Run) -> Iterator[str]:
    """What differs in code, packages and machine; between the sessions, too."""
    here = environment(resolve_device(again.config.device))
    for number, session in enumerate(sessions, start=1):
        where = f"session {number} of {len(sessions)}" if len(sessions) > 1 else "there"
        for difference in differences(session, here):
            yield f"{difference} ({where}, here)"
        if session.get("dirty"):
            yield f"the code had uncommitted changes {where}"


def _comparisons(original: Run, again: Run) -> Iterator[Comparison]:
    lines = [_by_step(run) for run in (original, again)]
    yield Comparison(
        "metrics.jsonl", f"{len(lines[0])} lines", first_difference(lines[0], lines[1])
    )
    weights = [
        {name: tensor.numpy() for name, tensor in run.read_weights().items()}
        for run in (original, again)
    ]
    count = sum(tensor.size for tensor in weights[0].values())
    yield Comparison(
        "model.safetensors", f"{count:,} weights", first_difference(weights[0], weights[1])
    )
    results = {result.row.measurement: result for result in _complete(original)}
    there = again.results()
    rows = [
        {m.label: _facts(asdict(found[m].row)) for m in results if m in found}
        for found in (results, there)
    ]
    yield Comparison("results.jsonl", f"{len(rows[0])} rows", first_difference(rows[0], rows[1]))
    kept = {m: result for m, result in results.items() if result.losses_file}
    losses = [{m.label: found[m].losses() for m in kept if m in found} for found in (kept, there)]
    count = sum(result.row.tokens for result in kept.values())
    yield Comparison("losses/", f"{count:,} token losses", first_difference(losses[0], losses[1]))


def _by_step(folder: RunFolder) -> dict[str, dict[str, Any]]:
    return {f"step {line['step']}": _facts(line) for line in read_curve(folder.curve)}


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in CIRCUMSTANCES}


def first_difference(there: Any, here: Any, where: str = "") -> str | None:
    """The first place where two values differ in any bit; None if there is none.

    Values are mappings of values, arrays, or plain values; NaN equals NaN.
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        if surplus := there.keys() ^ here.keys():
            return f"only one of the two has {', '.join(sorted(surplus))}"
        of = f" of {where}" if where else ""
        found = (first_difference(there[key], here[key], f"{key}{of}") for key in there)
        return next(filter(None, found), None)
    if isinstance(there, np.ndarray) and isinstance(here, np.ndarray):
        if there.shape != here.shape:
            return f"{where} has the shape {there.shape} there and {here.shape} here"
        bits = f"u{there.itemsize}"
        unequal = np.flatnonzero(there.ravel().view(bits) != here.ravel().view(bits))
        if not len(unequal):
            return None
        first = int(unequal[0])
        numbers = _numbers(float(there.flat[first]), float(here.flat[first]))
        return f"{len(unequal):,} numbers of {where}; number {first} is {numbers}"
    if isinstance(there, np.ndarray) or isinstance(here, np.ndarray):
        return f"only one of the two has {where}"
    if there == here or (there != there and here != here):
        return None
    if isinstance(there, float) and isinstance(here, float):
        return f"{where} is {_numbers(there, here)}"
    return f"{where} is {there} there and {here} here"


def _numbers(there: float, here: float) -> str:
    relative = abs(here - there) / abs(there) if there else float("inf")
    return f"{there!r} there and {here!r} here (relative difference {relative:.1e})"
