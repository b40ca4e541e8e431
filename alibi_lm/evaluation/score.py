"""The loss of every token that a protocol scores, of any model.

What is evaluated is a `Subject`, so that models from elsewhere are measured by the same protocols.
Token losses are kept, and everything else (sums in float64, loss by position, intervals) is
computed from them. A loss that is not finite is counted, never skipped.
"""

import itertools
import typing
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alibi_lm.evaluation.protocols import Protocol
from alibi_lm.evaluation.spans import Spans
from alibi_lm.machine import processes
from alibi_lm.machine.device import autocast
from alibi_lm.machine.memory import is_out_of_memory
from alibi_lm.model.softmax import UNSCORED


class Model(typing.Protocol):
    """Whatever gives token losses."""

    def __call__(self, inputs: Tensor, targets: Tensor, window: int | None = None) -> Tensor:
        """Losses in nats; a target UNSCORED has none. (B, T), (B, T) -> (B, T)."""


class Subject(Model, typing.Protocol):
    """Whatever can be measured: it gives token losses and says how it attended."""

    @property
    def backend(self) -> str:
        """What computed attention in the last call."""

    @property
    def casts(self) -> bool:
        """Whether autocast makes it compute in a dtype; else its weights are in that dtype."""

    def refusal(self, length: int, window: int | None) -> str | None:
        """Why it cannot read texts of that length within that window; None if it can."""

    @property
    def prefix_consistent(self) -> bool:
        """Whether a token's loss is the same if the text goes on behind it."""


# Losses of (inputs, targets), as `score` asks for them.
TokenLosses = Callable[[Tensor, Tensor], Tensor]


def score(
    losses_of: TokenLosses,
    stream: npt.NDArray[np.unsignedinteger],
    protocol: Protocol,
    batch_tokens: int,
    advance: Callable[[int], object] = lambda read: None,
    fill: bool = False,
    bos: int | None = None,
) -> npt.NDArray[np.float32]:
    """The loss of each target that the protocol scores, in nats, in the order of the text.

    stream: (N + 1,), the N targets after the one token before them. `advance` is told how many
    tokens were read. fill: read every window at the protocol's length, for models that are not
    prefix-consistent, whose numbers would hang on how windows are batched. bos: the number of the
    beginning-of-text token, for protocols that put it in place of the token before the text, or
    before each span. Several processes take the batches in turns, and all get all losses; if one of
    them runs out of memory, all raise.
    """
    assert bos is not None or protocol.bos == "none"
    n_targets, n_processes = len(stream) - 1, processes.world_size()
    spans, size = protocol.spans(n_targets), max(1, batch_tokens // protocol.length)
    rank = processes.rank()
    losses: list[npt.NDArray[np.float32]] = []
    failure: Exception | None = None
    try:
        for start in range(rank * size, len(spans), n_processes * size):
            these = spans[start : start + size]
            inputs, targets = span_tensors(these, stream, protocol.length if fill else 0)
            if protocol.bos != "none" and bos is not None:
                inputs[(these[:, 0] == 0) | (protocol.bos == "window"), 0] = bos
            read = losses_of(inputs, targets).float().cpu()
            losses.append(read[targets != UNSCORED].numpy())
            advance(inputs.numel() * n_processes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = error
    if any(processes.all_gather(failure is not None)):
        raise failure or MemoryError("another process ran out of memory")
    shares = processes.all_gather(losses)
    turns = itertools.zip_longest(*shares)  # the batches in the order of the text
    scored = np.concatenate([part for turn in turns for part in turn if part is not None])
    if len(scored) != protocol.n_scored(n_targets):
        raise AssertionError(f"scored {len(scored)} tokens of {protocol.n_scored(n_targets)}")
    return scored


def reader(
    model: Model, device: torch.device, dtype: str, window: int | None = None
) -> TokenLosses:
    """The model as `score` calls it: on its device, in that dtype, without gradients."""

    @torch.inference_mode()
    def losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with autocast(device, dtype):
            return model(inputs.to(device), targets.to(device), window=window)

    return losses_of


def span_tensors(
    spans: Spans,
    stream: npt.NDArray[np.unsignedinteger],
    at_least: int = 0,
) -> tuple[Tensor, Tensor]:
    """Inputs, and targets or UNSCORED, of spans that are read at once. (B, T), (B, T).

    Shorter spans, and all that are shorter than at_least, are padded on the right, which no scored
    loss of a causal model sees.
    """
    starts, scored_from, stops = (column[:, None] for column in spans.T)
    places = starts + np.arange(max(at_least, (stops - starts).max()))  # target numbers, (B, T)
    scored = (places >= scored_from) & (places < stops)
    places = np.minimum(places, stops - 1)
    targets = np.where(scored, stream[places + 1], np.int64(UNSCORED))
    inputs = stream[places].astype(np.int64)
    return torch.from_numpy(inputs), torch.from_numpy(targets)
