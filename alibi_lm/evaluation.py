"""Evaluation: the loss of every token of a split, in windows of a given length.

What is evaluated is any function from (inputs, targets) to token losses, so that models from
elsewhere can be measured by the same protocols. Sums run over tokens, in float64; a loss that is
not finite is counted, never skipped.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alibi_lm.checkpoint import load_weights
from alibi_lm.config import EvaluationConfig
from alibi_lm.data.tokens import Split, TokenizedCorpus
from alibi_lm.data.windows import Window, windows
from alibi_lm.errors import UserError
from alibi_lm.progress import bar, say
from alibi_lm.results import Row, metrics
from alibi_lm.runs import Run, recipe
from alibi_lm.runtime import autocast, commit, keep_freed_memory, resolve_device
from alibi_lm.training import build_model

# (B, T) inputs and (B, T) targets -> (B, T) losses in nats.
TokenLosses = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """Sums over the scored tokens."""

    tokens: int
    nll: float  # nats
    nonfinite: int


def score(
    losses_of: TokenLosses,
    stream: npt.NDArray[np.unsignedinteger],
    length: int,
    stride: int,
    batch_tokens: int,
    advance: Callable[[int], object] = lambda scored: None,
) -> Score:
    """Score every token of a stream once, in windows of `length` that move by `stride`.

    stream: (N + 1,), the N targets after the one token before them. `advance` is told how many
    tokens each batch scored.
    """
    n_targets = len(stream) - 1
    tokens, nll, nonfinite = 0, 0.0, 0
    for batch in _batched(windows(n_targets, length, stride), max(1, batch_tokens // length)):
        inputs, targets, scored = _arrays(batch, stream)
        losses = losses_of(torch.from_numpy(inputs), torch.from_numpy(targets)).double().cpu()
        wanted = losses[torch.from_numpy(scored)]
        tokens += len(wanted)
        nll += wanted.sum().item()
        nonfinite += int((~wanted.isfinite()).sum())
        advance(len(wanted))
    if tokens != n_targets:
        raise AssertionError(f"scored {tokens} tokens of {n_targets}")
    return Score(tokens, nll, nonfinite)


def _batched(all_windows: Iterator[Window], size: int) -> Iterator[list[Window]]:
    while batch := list(itertools.islice(all_windows, size)):
        yield batch


def _arrays(
    batch: list[Window], stream: npt.NDArray[np.unsignedinteger]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Inputs, targets and which targets to score. (B, T) each.

    Shorter windows are filled up on the right, where a causal model's scored losses do not see it.
    """
    starts = np.array([window.start for window in batch])[:, None]
    scored_from = np.array([window.scored_from for window in batch])[:, None]
    stops = np.array([window.stop for window in batch])[:, None]
    places = starts + np.arange((stops - starts).max())  # target numbers, (B, T)
    scored = (places >= scored_from) & (places < stops)
    places = np.minimum(places, stops - 1)
    return stream[places].astype(np.int64), stream[places + 1].astype(np.int64), scored


def check_lengths(evaluation: EvaluationConfig, data: TokenizedCorpus) -> Split:
    """The split to score, or a UserError if it lacks or is shorter than a length."""
    split = data.split(evaluation.split)
    longest = max(evaluation.lengths)
    if longest > split.tokens:
        raise UserError(
            f"evaluation.lengths: given {longest}, but the {evaluation.split} split of {data.name} "
            f"has {split.tokens} tokens"
        )
    return split


def evaluate_run(
    run: Run, data: TokenizedCorpus, evaluation: EvaluationConfig, device_name: str, label: str = ""
) -> list[Row]:
    """The rows of a trained run for the wanted evaluation; only those it lacks are computed."""
    split = check_lengths(evaluation, data)
    with run.lock():
        there = {row.what: row for row in run.rows()}
        wanted = wanted_rows(evaluation)
        missing = [what for what in wanted if what not in there]
        if missing:
            _evaluate_into(run, data, split, missing, evaluation, device_name, label)
        else:
            say(f"{label}{run.path} is evaluated already")
        there = {row.what: row for row in run.rows()}
    return [there[what] for what in wanted]


def wanted_rows(evaluation: EvaluationConfig) -> list[tuple[int, str, int, str]]:
    """What the evaluation asks for, as `Row.what` names it, each once."""
    wanted: dict[tuple[int, str, int, str], None] = {}
    for length in evaluation.lengths:
        stride = evaluation.stride or length
        protocol = "nonoverlapping" if evaluation.stride is None else "sliding"
        wanted[length, protocol, stride, evaluation.split] = None
    return list(wanted)


def _evaluate_into(
    run: Run,
    data: TokenizedCorpus,
    split: Split,
    missing: list[tuple[int, str, int, str]],
    evaluation: EvaluationConfig,
    device_name: str,
    label: str,
) -> None:
    config = run.config
    device = resolve_device(device_name)
    keep_freed_memory()
    model = build_model(config, data).to(device).eval()
    load_weights(model, run.weights)
    head, dirty = commit()

    @torch.inference_mode()
    def losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with autocast(device, config.dtype):
            losses: Tensor = model(inputs.to(device), targets.to(device))
        return losses

    desc = f"{label}evaluate {config.position.name}"
    with bar(total=split.tokens * len(missing), unit="tok", desc=desc) as progress:
        for length, protocol, stride, split_name in missing:
            progress.set_postfix_str(f"length {length}")
            started = time.perf_counter()
            result = score(
                losses_of, split.stream, length, stride, evaluation.batch_tokens, progress.update
            )
            run.add_row(
                Row(
                    position=config.position.name,
                    train_length=config.train_length,
                    eval_length=length,
                    protocol=protocol,
                    stride=stride,
                    seed=config.seed,
                    dataset=data.name,
                    split=split_name,
                    tokenizer=data.tokenizer,
                    tokens=result.tokens,
                    words=split.words,
                    bytes=split.bytes,
                    **metrics(result.nll, result.tokens, split.words, split.bytes),
                    nonfinite=result.nonfinite,
                    n_parameters=model.n_parameters,
                    vocab_size=data.vocab_size,
                    train_tokens=config.optim.steps * config.optim.tokens_per_step,
                    dtype=config.dtype,
                    backend=model.backend,
                    device=str(device),
                    seconds=time.perf_counter() - started,
                    data_hash=data.hash,
                    tokenizer_hash=data.tokenizer_hash,
                    commit=head,
                    dirty=dirty,
                    torch=torch.__version__,
                    recipe=recipe(config, data),
                    run=run.path.name,
                )
            )
