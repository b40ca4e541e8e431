"""Evaluation: the loss of every scored token of a split, by a protocol at a length.

What is evaluated is any function from (inputs, targets) to token losses, so that models from
elsewhere can be measured by the same protocols. Token losses are kept, and what is said of them
(sums in float64, loss by position, intervals) is computed from them. A loss that is not finite is
counted, never skipped; where memory runs out, the row says so and the next one is computed.
"""

import itertools
import math
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alibi_lm.config import Config, EvaluationConfig
from alibi_lm.data.tokens import Split, TokenizedCorpus
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Protocol
from alibi_lm.evaluation.rows import COMPLETE, OUT_OF_MEMORY, Result, Row, metrics
from alibi_lm.evaluation.score import reader, score
from alibi_lm.machine import processes
from alibi_lm.machine.device import be_deterministic, resolve_device
from alibi_lm.machine.memory import fail_when_memory_runs_out, is_out_of_memory, keep_freed_memory
from alibi_lm.machine.progress import bar, logged, say
from alibi_lm.machine.provenance import commit
from alibi_lm.model.decoder import Decoder, check_backend
from alibi_lm.positions import build_position
from alibi_lm.runs.build import build_model
from alibi_lm.runs.folder import Run
from alibi_lm.runs.identity import recipe, settings, variant
from alibi_lm.runs.tracking import NOBODY, Tracker


def protocols(evaluation: EvaluationConfig, train_length: int) -> list[Protocol]:
    """Every measurement that the settings ask for of a model trained at that length, each once."""
    lengths = evaluation.lengths_of(train_length)
    choices = itertools.product(evaluation.protocols, evaluation.attention, lengths)
    wanted = (
        Protocol(
            name,
            length,
            evaluation.split,
            stride={"nonoverlapping": length, "sliding": evaluation.stride}.get(name),
            sample=evaluation.targets if name == "same_targets" else None,
            window=(evaluation.window or train_length) if attention == "window" else None,
        )
        for name, attention, length in choices
    )
    return list(dict.fromkeys(wanted))


def check_evaluation(
    evaluation: EvaluationConfig, train_length: int, data: TokenizedCorpus
) -> Split:
    """The split to score; a UserError if it lacks or is too short for what is asked."""
    split, wanted = data.split(evaluation.split), protocols(evaluation, train_length)
    if not wanted:
        raise UserError(
            f"evaluation.lengths: given {evaluation.lengths}, but with evaluation.shorter=false "
            f"none is at least the training length, {train_length}"
        )
    problems = {
        f"{problem} (data set {data.name})"
        for protocol in wanted
        if (problem := protocol.problem(split.tokens))
    }
    if problems:
        raise UserError("\n".join(sorted(problems)))
    return split


def evaluation_device(config: Config, wanted: list[Protocol]) -> torch.device:
    """The device to evaluate on; a UserError if it is not there or the backend cannot do it."""
    device = resolve_device(config.device)
    position = build_position(config.position, config.model)
    for protocol in wanted:
        window = protocol.window if (protocol.window or 0) < protocol.length else None
        check_backend(config.backend, position, device.type, window)
    return device


def evaluate_run(
    run: Run,
    data: TokenizedCorpus,
    evaluation: EvaluationConfig,
    device_name: str,
    backend: str,
    tracker: Tracker = NOBODY,
    label: str = "",
) -> list[Result]:
    """The results of a trained run for the wanted evaluation; only those it lacks are computed.

    A backend other than auto and the dtype are wanted, too: what others computed is computed again.
    """
    dtype = evaluation_dtype(evaluation, run.config)
    config = replace(run.config, device=device_name, backend=backend, dtype=dtype)
    split = check_evaluation(evaluation, config.train_length, data)
    wanted = protocols(evaluation, config.train_length)
    device = evaluation_device(config, wanted)
    processes.join()
    with run.lock(), logged(run.log):
        missing = processes.by_first(lambda: missing_results(run, wanted, backend, dtype))
        if missing:
            batch_tokens = evaluation.batch_tokens
            _evaluate_into(run, config, data, split, missing, batch_tokens, device, tracker, label)
        else:
            say(f"{label}{run.path} is evaluated already")
        there = processes.by_first(run.results)
        tracker.results([result.row for result in there.values()])
    return [there[protocol] for protocol in wanted]


def evaluation_dtype(evaluation: EvaluationConfig, config: Config) -> str:
    """The dtype that is wanted: of the evaluation, or what the run says of it, or as trained."""
    return evaluation.dtype or config.evaluation.dtype or config.dtype


def missing_results(
    run: Run, wanted: list[Protocol], backend: str, dtype: str, again: bool = True
) -> list[Protocol]:
    """What is yet to be measured; where memory ran out before, by default it is tried again."""
    there = {
        protocol
        for protocol, result in run.results().items()
        if (result.row.status == COMPLETE or not again)
        and backend in ("auto", result.row.backend)
        and dtype == result.row.dtype
    }
    return [protocol for protocol in wanted if protocol not in there]


def _evaluate_into(
    run: Run,
    config: Config,
    data: TokenizedCorpus,
    split: Split,
    missing: list[Protocol],
    batch_tokens: int,
    device: torch.device,
    tracker: Tracker,
    label: str,
) -> None:
    keep_freed_memory()
    be_deterministic(config.deterministic, device)
    if device.type == "cpu":
        fail_when_memory_runs_out()
    model: Decoder = build_model(config, data).to(device).eval()
    run.load_weights(model)
    head, dirty = commit()

    of_the_run: dict[str, Any] = {
        "position": config.position.name,
        "train_length": config.train_length,
        "seed": config.seed,
        "dataset": data.name,
        "tokenizer": data.tokenizer,
        "words": split.words,
        "bytes": split.bytes,
        "variant": variant(config),
        "n_parameters": model.n_parameters,
        "vocab_size": data.vocab_size,
        "train_tokens": config.optim.steps * config.optim.tokens_per_step,
        "dtype": config.dtype,
        "device": device.type,
        "data_hash": data.hash,
        "tokenizer_hash": data.tokenizer_hash,
        "commit": head,
        "dirty": dirty,
        "torch": torch.__version__,
        "settings": settings(config),
        "recipe": recipe(config, data),
        "run": run.path.name,
    }
    reads = sum(protocol.reads(split.tokens) for protocol in missing)
    desc = f"{label}evaluate {config.position.name}"
    with bar(total=reads, unit="tok", desc=desc) as progress:
        for protocol in missing:
            progress.set_postfix_str(protocol.label)
            started = time.perf_counter()
            losses_of = reader(partial(model, window=protocol.window), device, config.dtype)
            with torch.inference_mode():
                how = model.backend(protocol.length, protocol.window)
            losses: npt.NDArray[np.float32] | None
            try:
                losses = score(losses_of, split.stream, protocol, batch_tokens, progress.update)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                losses = None
            loss = math.nan if losses is None else float(losses.astype(np.float64).mean())
            row = Row(
                **of_the_run,
                eval_length=protocol.length,
                protocol=protocol.name,
                stride=protocol.stride,
                split=protocol.split,
                window=protocol.window,
                tokens=protocol.scores(split.tokens),
                **metrics(loss, split.tokens, split.words, split.bytes)._asdict(),
                nonfinite=0 if losses is None else int((~np.isfinite(losses)).sum()),
                status=OUT_OF_MEMORY if losses is None else COMPLETE,
                backend=how,
                seconds=time.perf_counter() - started,
            )
            if losses is None:
                say(f"{label}{protocol.label}: out of memory after {row.seconds:.0f} s; going on")
            if processes.is_first():
                run.add_result(row, losses)
            tracker.result(row)
