"""The loss of every scored token of a split, of any function from (inputs, targets) to losses."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alibi_lm.evaluation.protocols import Protocol
from alibi_lm.evaluation.spans import Window
from alibi_lm.machine import processes
from alibi_lm.machine.device import autocast
from alibi_lm.machine.memory import is_out_of_memory
from alibi_lm.model.softmax import UNSCORED

# (B, T) inputs and (B, T) targets -> (B, T) losses in nats; a target UNSCORED asks for no loss.
TokenLosses = Callable[[Tensor, Tensor], Tensor]


def score(
    losses_of: TokenLosses,
    stream: npt.NDArray[np.unsignedinteger],
    protocol: Protocol,
    batch_tokens: int,
    advance: Callable[[int], object] = lambda read: None,
) -> npt.NDArray[np.float32]:
    """The loss of each target that the protocol scores, in nats, in the order of the text.

    stream: (N + 1,), the N targets after the one token before them. `advance` is told how many
    tokens were read. Several processes take the batches in turns, and all get all losses; where
    one of them runs out of memory, so do all.
    """
    n_targets, n_processes = len(stream) - 1, processes.count()
    batches = protocol_batches(stream, protocol, batch_tokens)
    losses: list[npt.NDArray[np.float32]] = []
    failure: Exception | None = None
    try:
        for inputs, targets in itertools.islice(batches, processes.rank(), None, n_processes):
            read = losses_of(inputs, targets).float().cpu()
            losses.append(read[targets != UNSCORED].numpy())
            advance(inputs.numel() * n_processes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = error
    if any(processes.all_of(failure is not None)):
        raise failure or MemoryError("another process ran out of memory")
    shares = processes.all_of(losses)
    turns = itertools.zip_longest(*shares)  # the batches in the order of the text
    scored = np.concatenate([part for turn in turns for part in turn if part is not None])
    if len(scored) != protocol.scores(n_targets):
        raise AssertionError(f"scored {len(scored)} tokens of {protocol.scores(n_targets)}")
    return scored


def reader(model: TokenLosses, device: torch.device, dtype: str) -> TokenLosses:
    """The model as evaluation calls it: on its device, in that dtype, without gradients."""

    @torch.inference_mode()
    def losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with autocast(device, dtype):
            return model(inputs.to(device), targets.to(device))

    return losses_of


def protocol_batches(
    stream: npt.NDArray[np.unsignedinteger], protocol: Protocol, batch_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs, and targets or UNSCORED, of as many windows at once as make batch_tokens. (B, T)."""
    windows = protocol.windows(len(stream) - 1)
    size = max(1, batch_tokens // protocol.length)
    while batch := list(itertools.islice(windows, size)):
        yield _tensors(batch, stream)


def _tensors(batch: list[Window], stream: npt.NDArray[np.unsignedinteger]) -> tuple[Tensor, Tensor]:
    """Shorter windows are filled up on the right, where no scored loss of a causal model sees."""
    starts = np.array([window.start for window in batch])[:, None]
    scored_from = np.array([window.scored_from for window in batch])[:, None]
    stops = np.array([window.stop for window in batch])[:, None]
    places = starts + np.arange((stops - starts).max())  # target numbers, (B, T)
    scored = (places >= scored_from) & (places < stops)
    places = np.minimum(places, stops - 1)
    targets = np.where(scored, stream[places + 1], np.int64(UNSCORED))
    return torch.from_numpy(stream[places].astype(np.int64)), torch.from_numpy(targets)
