"""Making a run again from its folder, and comparing all that can be the same.

Where `deterministic` (by default on a CPU), the same code, packages, processor and threads give the
same numbers bit for bit; what differs in those stands beside the verdict. Rows are scored with the
training's threads and the run's own `evaluation.batch_tokens`: those that were scored with others
may differ in their last digits though the weights do not.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file

from alibi_lm.config import EvaluationConfig
from alibi_lm.data.tokens import TokenizedCorpus, prepare
from alibi_lm.errors import UserError
from alibi_lm.evaluation.rows import COMPLETE, Result, Row
from alibi_lm.machine import processes
from alibi_lm.machine.device import resolve_device
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.provenance import differences, environment
from alibi_lm.runs.curve import read_metrics
from alibi_lm.runs.evaluate import evaluate_run
from alibi_lm.runs.folder import Run, check_data, load_run
from alibi_lm.runs.train import train_run

VERDICT = "reproduction.json"
# Columns that say where, when and how fast, not what came out.
CIRCUMSTANCES = {"seconds", "run", "commit", "dirty", "torch", "device"}


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
    circumstances: list[str]  # what was not the same around it
    comparisons: list[Comparison]

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return all(comparison.difference is None for comparison in self.comparisons)


def reproduce(folder: Path, output: Path) -> Reproduction:
    """Train and evaluate a run anew in a fresh folder below `output`, and compare.

    A UserError if the folder is no trained run, its text is another by now, or its manifest does
    not say how it was made.
    """
    original = load_run(folder)
    sessions = original.sessions()
    if not sessions:
        raise UserError(f"{folder / 'manifest.json'} does not say how the run was made")
    made = sessions[-1]
    if made["processes"] != processes.count():
        raise UserError(
            f"{folder} was trained by {made['processes']} processes, and here are "
            f"{processes.count()}; use torchrun --nproc-per-node={made['processes']}"
        )
    data = prepare(original.config.data, original.config.tokenizer, Path(original.config.cache))
    check_data(original, data)
    processes.join()
    torch.set_num_threads(made["threads"])  # another number adds in another order
    config = replace(
        original.config,
        output=str(output),
        run=processes.by_first(lambda: _fresh(output, folder.resolve().name)),
        deterministic=made["deterministic"],
        tracking=replace(original.config.tracking, mode="off"),
    )
    again = train_run(config, data)
    _evaluate(original, again, data)
    made_again = Reproduction(
        again, list(_circumstances(sessions, again)), list(_comparisons(original, again))
    )
    verdict = {
        "original": str(folder.resolve()),
        "identical": made_again.identical,
        "not_the_same": made_again.circumstances,
        "comparisons": [asdict(comparison) for comparison in made_again.comparisons],
    }
    if processes.is_first():
        write_atomically(again.path / VERDICT, json.dumps(verdict, indent=2) + "\n")
    return made_again


def _fresh(output: Path, name: str) -> str:
    """A folder without a verdict; one that an interrupted reproduction left is taken up."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(n for n in names if not (output / "runs" / n / VERDICT).exists())


def _complete(run: Run) -> list[Result]:
    return [result for result in run.results().values() if result.row.status == COMPLETE]


def _evaluate(original: Run, again: Run, data: TokenizedCorpus) -> None:
    """Score whatever the original scored, by the same backend."""
    config = again.config
    for result in _complete(original):
        what = result.row.what
        evaluation = EvaluationConfig(
            protocols=[what.name],
            lengths=[what.length],
            stride=what.stride if what.name == "sliding" else None,
            targets=what.sample or config.evaluation.targets,
            attention=["window" if what.window else "full"],
            window=what.window,
            split=what.split,
            batch_tokens=config.evaluation.batch_tokens,
        )
        evaluate_run(again, data, evaluation, config.device, result.row.backend)


def _circumstances(sessions: list[dict[str, Any]], again: Run) -> Iterator[str]:
    """What was not the same: code, packages, machine; between the sessions, too."""
    here = environment(resolve_device(again.config.device))
    for number, session in enumerate(sessions, start=1):
        where = f"session {number} of {len(sessions)}" if len(sessions) > 1 else "there"
        for difference in differences(session, here):
            yield f"{difference} ({where}, here)"
        if session.get("dirty"):
            yield f"the code had changes {where} that were not committed"


def _comparisons(original: Run, again: Run) -> Iterator[Comparison]:
    lines, lines_again = read_metrics(original.curve), read_metrics(again.curve)
    yield Comparison(
        "metrics.jsonl", f"{len(lines)} lines", _first_difference_of_metrics(lines, lines_again)
    )
    weights, weights_again = load_file(original.weights), load_file(again.weights)
    yield Comparison(
        "model.safetensors",
        f"{sum(tensor.size for tensor in weights.values()):,} weights",
        _first_difference_of_weights(weights, weights_again),
    )
    results = _complete(original)
    there = again.results()
    yield Comparison(
        "results.jsonl",
        f"{len(results)} rows",
        next(
            filter(None, (_difference_of_rows(r.row, there[r.row.what].row) for r in results)), None
        ),
    )
    pairs = [(result, there[result.row.what]) for result in results if result.losses_file]
    yield Comparison(
        "losses/",
        f"{sum(first.row.tokens for first, _ in pairs):,} token losses",
        next(filter(None, (_difference_of_losses(*pair) for pair in pairs)), None),
    )


def _same(there: Any, here: Any) -> bool:
    """Whether two values are equal, or both no number."""
    return bool(there == here or (there != there and here != here))


def _unequal(there: npt.NDArray[Any], here: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Where two arrays differ in any bit."""
    bits = f"u{there.itemsize}"
    return np.flatnonzero(there.ravel().view(bits) != here.ravel().view(bits))


def _numbers(there: float, here: float) -> str:
    relative = abs(here - there) / abs(there) if there else float("inf")
    return f"{there!r} there and {here!r} here (relative difference {relative:.1e})"


def _first_difference_of_metrics(
    there: list[dict[str, Any]], here: list[dict[str, Any]]
) -> str | None:
    for first, second in zip(there, here, strict=False):
        for key in first:
            if key not in CIRCUMSTANCES and not _same(first[key], second[key]):
                return f"{key} of step {first['step']} is {_numbers(first[key], second[key])}"
    return None if len(there) == len(here) else f"{len(there)} lines there and {len(here)} here"


def _first_difference_of_weights(
    there: dict[str, np.ndarray], here: dict[str, np.ndarray]
) -> str | None:
    if surplus := there.keys() ^ here.keys():
        return f"only one of the two has {', '.join(sorted(surplus))}"
    for name, tensor in there.items():
        unequal = _unequal(tensor, here[name])
        if len(unequal):
            first = int(unequal[0])
            numbers = _numbers(float(tensor.flat[first]), float(here[name].flat[first]))
            return f"{len(unequal):,} of {name}; its number {first} is {numbers}"
    return None


def _difference_of_rows(there: Row, here: Row) -> str | None:
    first, second = asdict(there), asdict(here)
    for key in first:
        if key not in CIRCUMSTANCES and not _same(first[key], second[key]):
            numbers = isinstance(first[key], float)
            said = _numbers(first[key], second[key]) if numbers else f"{first[key]}, {second[key]}"
            return f"{key} of {there.what.label} is {said}"
    return None


def _difference_of_losses(there: Result, here: Result) -> str | None:
    first, second = there.losses(), here.losses()
    if first is None or second is None:
        return f"{there.row.what.label} has none here"
    unequal = _unequal(first, second)
    if not len(unequal):
        return None
    token = int(unequal[0])
    numbers = _numbers(float(first[token]), float(second[token]))
    return f"{len(unequal):,} of {there.row.what.label}; that of token {token} is {numbers}"
