"""Token losses by a softmax over a matrix, and the plain input and output layer.

N x V logits are never held whole: where they are many they are computed in chunks, in training a
second time for the backward pass.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Elements of the logits held at a time. Training holds a few tensors of as many, and computes the
# logits a second time for the backward pass where a step's do not fit at once.
LOGITS_AT_ONCE = {"evaluation": 2**23, "training": 2**24}  # 32 and 64 MiB
UNSCORED = -100  # a target that is not scored, as in torch's own cross_entropy


def token_losses(hidden: Tensor, targets: Tensor, matrix: Tensor) -> Tensor:
    """-log p(target) in nats, float32. hidden: (N, D), targets: (N,), matrix: (V, D) -> (N,)."""
    logits = F.linear(hidden, matrix).float()
    return F.cross_entropy(logits, targets, reduction="none")


def matrix_losses(hidden: Tensor, targets: Tensor, matrix: Tensor) -> Tensor:
    """`token_losses`, of which no more than LOGITS_AT_ONCE logits are held at a time."""
    if torch.is_grad_enabled():
        return _with_gradients(hidden, targets, matrix)
    found = torch.empty(len(targets), device=hidden.device)
    at_once = max(1, LOGITS_AT_ONCE["evaluation"] // len(matrix))
    for start in range(0, len(targets), at_once):
        part = slice(start, start + at_once)
        found[part] = token_losses(hidden[part], targets[part], matrix)
    return found


def _with_gradients(hidden: Tensor, targets: Tensor, matrix: Tensor) -> Tensor:
    at_once = max(1, LOGITS_AT_ONCE["training"] // len(matrix))
    if len(targets) <= at_once:
        return token_losses(hidden, targets, matrix)
    device = hidden.device.type
    # With its cache, autocast would round the matrix once for all chunks, and their gradients
    # would be summed in 16 bits.
    uncached = torch.autocast(
        device,
        torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=False,
    )
    losses = []
    for start in range(0, len(targets), at_once):
        chunk = hidden[start : start + at_once], targets[start : start + at_once], matrix
        with uncached:
            losses.append(checkpoint(token_losses, *chunk, use_reentrant=False))
    return torch.cat(losses)


def losses_where_scored(
    hidden: Tensor, targets: Tensor, losses_of: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Losses of the scored targets, zero where one is UNSCORED. (B, T, D), (B, T) -> (B, T).

    losses_of: (N, D), (N,) -> (N,).
    """
    scored = targets != UNSCORED
    found = losses_of(hidden[scored], targets[scored])
    return torch.zeros(targets.shape, device=hidden.device).masked_scatter(scored, found)


class TiedSoftmax(nn.Module):
    """One matrix, a row for each token, that embeds tokens and scores them."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fairseq's choice: of variance 1/D, so that logits begin with variance 1."""
        parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        return F.embedding(tokens, self.weight)

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Log p of every token, float32. (B, T, D) -> (B, T, V)."""
        return F.linear(hidden, self.weight).float().log_softmax(-1)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p(target) in nats, float32. hidden: (B, T, D), targets: (B, T) -> (B, T).

        Zero where a target is UNSCORED.
        """

        def losses_of(hidden: Tensor, targets: Tensor) -> Tensor:
            return matrix_losses(hidden, targets, self.weight)

        if torch.is_grad_enabled():  # in training all are scored, and a selection is a copy
            return losses_of(hidden.flatten(0, -2), targets.flatten()).view(targets.shape)
        return losses_where_scored(hidden, targets, losses_of)
