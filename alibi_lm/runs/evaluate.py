"""Evaluating a trained run: the rows that it lacks, and the command for it."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alibi_lm.attention import BACKEND_MEANING, BACKENDS
from alibi_lm.data.corpus import DataConfig
from alibi_lm.evaluation.protocols import EvaluationConfig, Measurement
from alibi_lm.evaluation.rows import COMPLETE, OUT_OF_MEMORY, REFUSED, Result, Row, metrics
from alibi_lm.evaluation.score import Subject, TokenLosses, reader, score
from alibi_lm.machine import processes
from alibi_lm.machine.device import be_deterministic, resolve_device
from alibi_lm.machine.memory import is_out_of_memory, prepare_memory
from alibi_lm.machine.names import DEVICE_MEANING, DEVICES
from alibi_lm.machine.progress import bar, logged, say
from alibi_lm.machine.provenance import commit
from alibi_lm.runs.folder import Run, RunFolder
from alibi_lm.runs.subjects import load_subjects
from alibi_lm.settings import out_of_bounds, setting
from alibi_lm.tracking import MODES, NO_TRACKING, Tracker


@dataclass
class EvaluateTrackingConfig:
    """Results go to the W&B run of the trained run; only the mode can be set."""

    mode: str | None = setting(None, "null: as the run was tracked", choices=MODES)


@dataclass
class EvaluateConfig:
    """Evaluation of a trained run."""

    run: str = setting("", "folder of the trained run")
    data: DataConfig | None = setting(
        None, "text to read; null: that of the run. Its tokenizer is the run's"
    )
    evaluation: EvaluationConfig = setting(EvaluationConfig, "the evaluation")
    device: str = setting("auto", DEVICE_MEANING, choices=DEVICES)
    backend: str = setting("auto", BACKEND_MEANING, choices=("auto", *BACKENDS))
    cache: str | None = setting(None, "folder for token files; null: that of the run")
    output: str | None = setting(
        None, "folder that gets the rows instead of the run's own, as OUTPUT/runs/NAME"
    )
    tracking: EvaluateTrackingConfig = setting(EvaluateTrackingConfig, "what W&B gets")

    def problems(self) -> list[str]:
        """Every problem of the settings."""
        problems = out_of_bounds(self) + self.evaluation.problems()
        if not self.run:
            problems.insert(0, "run: not given; name the folder of a trained run, run=FOLDER")
        return problems


def evaluate_run(
    run: Run,
    wanted: list[Measurement],
    tracker: Tracker = NO_TRACKING,
    rows: RunFolder | None = None,
) -> list[Result]:
    """The wanted results of a trained run; only those that it lacks are computed.

    Where memory ran out before, it is tried again. rows: the folder that gets rows and losses, if
    not the run's own, which then is only read.
    """
    processes.init()
    rows = run if rows is None else rows

    def results() -> dict[Measurement, Result]:
        if rows.path == run.path:
            return run.results()
        found = rows.results()
        for measurement, result in run.results().items():  # what is wanted is in one place
            if measurement in wanted and measurement not in found:
                losses = result.losses()
                kept = None if losses is None else losses.astype(np.float32)
                found[measurement] = rows.add_result(result.row, kept)
        return found

    there = processes.on_rank_zero(results)
    if any(_lacks(there, measurement) for measurement in wanted):
        with rows.lock(), logged(rows.log):
            there = processes.on_rank_zero(results)  # another command may have been at work
            missing = [measurement for measurement in wanted if _lacks(there, measurement)]
            for split in dict.fromkeys(measurement.split for measurement in missing):
                these = [m for m in missing if m.split == split]
                there |= _add_results(run, split, these, tracker, rows)
    else:
        say(f"{run.path} is already evaluated")
    tracker.results([result.row for result in there.values()])
    return [there[measurement] for measurement in wanted]


def _lacks(there: dict[Measurement, Result], measurement: Measurement) -> bool:
    return measurement not in there or there[measurement].row.status not in (COMPLETE, REFUSED)


def _add_results(
    run: Run, name: str, missing: list[Measurement], tracker: Tracker, rows: RunFolder
) -> dict[Measurement, Result]:
    config = run.config
    device = resolve_device(config.device)
    prepare_memory(device)
    be_deterministic(config.deterministic, device)
    split = run.data.split(name)
    subjects = load_subjects(run, missing, device)
    facts = _facts(run) | {"n_parameters": subjects.n_parameters, "device": device.type}
    facts |= {"words": split.words, "bytes": split.bytes, "lost": split.lost}
    reads = sum(m.protocol.n_read(split.tokens) for m in missing)
    added = {}
    what = f"evaluate {config.position.kind}"
    with bar(total=reads, unit="tok", desc=what, weight=1) as progress:
        for found in measure(
            subjects.of,
            split.stream,
            missing,
            device,
            config.evaluation.batch_tokens,
            progress,
            run.bos,
        ):
            measurement, losses, protocol = found.of, found.losses, found.of.protocol
            loss = math.nan if losses is None else float(losses.astype(np.float64).mean())
            row = Row(
                **facts,
                eval_length=protocol.length,
                protocol=protocol.name,
                stride=protocol.stride,
                sample=protocol.sample,
                bos=protocol.bos,
                split=measurement.split,
                window=measurement.window,
                dtype=measurement.dtype,
                changes=measurement.changes,
                tokens=protocol.n_scored(split.tokens),
                **metrics(loss, split.tokens, split.words, split.bytes, split.lost)._asdict(),
                nonfinite=0 if losses is None else int((~np.isfinite(losses)).sum()),
                status=found.status,
                reason=found.reason,
                prefix_consistent=found.prefix_consistent,
                backend=found.backend,
                seconds=found.seconds,
            )
            if found.status != COMPLETE:
                why = found.reason or f"after {found.seconds:.0f} s"
                say(f"{measurement.label}: {found.status}, {why}; continuing")
            if processes.is_rank_zero():
                added[measurement] = rows.add_result(row, losses)
            tracker.result(row)
    return processes.on_rank_zero(lambda: added)


def _facts(run: Run) -> dict[str, Any]:
    """The columns that all rows of an evaluation share. What the run is, its manifest says."""
    config, data, identity = run.config, run.data, run.identity
    head, dirty = commit()
    return {
        "position": config.position.kind,
        "train_length": config.train_length,
        "seed": config.seed,
        "dataset": data.name,
        "tokenizer": data.tokenizer,
        "variant": identity.variant,
        "vocab_size": data.vocab_size,
        "train_tokens": config.train_tokens,
        "data_hash": data.hash,
        "tokenizer_hash": data.tokenizer_hash,
        "commit": head,
        "dirty": dirty,
        "torch": torch.__version__,
        "settings": identity.settings,
        "recipe": identity.recipe,
        "run": run.path.name,
        "identity": identity.hash,
    }


@dataclass(frozen=True)
class Measured:
    """What came of a measurement: token losses, or why there are none."""

    of: Measurement
    losses: npt.NDArray[np.float32] | None
    status: str
    reason: str
    backend: str  # that ran; empty if none did
    seconds: float
    prefix_consistent: bool


def measure(
    subject_of: Callable[[Measurement], Subject],
    stream: npt.NDArray[np.unsignedinteger],
    wanted: list[Measurement],
    device: torch.device,
    batch_tokens: int,
    progress: Any,
    bos: int | None = None,
) -> Iterator[Measured]:
    """Measure each subject; one that cannot read the length, or memory for it, ends nothing."""
    for measurement in wanted:
        progress.set_postfix_str(measurement.label)
        started, protocol = time.perf_counter(), measurement.protocol
        subject, status, reason, backend = subject_of(measurement), COMPLETE, "", ""
        losses: npt.NDArray[np.float32] | None = None
        consistent = subject.prefix_consistent
        if refusal := subject.refusal(protocol.length, measurement.window):
            status, reason = REFUSED, refusal
            progress.update(protocol.n_read(len(stream) - 1))
        else:
            backends: list[str] = []
            cast_to = measurement.dtype if subject.casts else "float32"
            read = reader(subject, device, cast_to, measurement.window)
            losses_of = _noting_backends(subject, read, backends)
            try:
                losses = score(
                    losses_of, stream, protocol, batch_tokens, progress.update, not consistent, bos
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                status = OUT_OF_MEMORY
            backend = backends[0] if backends else ""  # a shorter last batch may do with another
        seconds = time.perf_counter() - started
        yield Measured(measurement, losses, status, reason, backend, seconds, consistent)


def _noting_backends(subject: Subject, read: TokenLosses, backends: list[str]) -> TokenLosses:
    """`read`, which adds to the list what computed attention in each batch."""

    def losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
        losses = read(inputs, targets)
        backends.append(subject.backend)
        return losses

    return losses_of
