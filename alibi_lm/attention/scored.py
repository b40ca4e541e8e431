"""Any bias and any function on the logits, a block of queries at a time, in plain torch.

Each block is computed anew in the backward pass (torch.utils.checkpoint), so that what is stored
is of the size of a block x length, and whatever the function holds gets its gradient.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alibi_lm.attention.bias import PLAIN, Bias, Block

BLOCK = 128  # queries


def attend_scored(
    q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float, compiled: bool = False
) -> Tensor:
    """`attend` for any bias, with gradients for all that it holds.

    compiled: compile the blocks in training, of functions that are the faster for it.
    """
    length, window = q.shape[2], bias.window or q.shape[2]
    training = torch.is_grad_enabled()
    compiled = compiled and training and (bias.on_logits or PLAIN).is_faster_compiled
    attend_block = _compiled() if compiled else _attend_block
    blocks = []
    for start in range(0, length, BLOCK):
        rows = slice(start, min(start + BLOCK, length))
        first = max(0, start - window + 1)
        i = torch.arange(rows.start, rows.stop, device=q.device)[:, None]
        j = torch.arange(first, rows.stop, device=q.device)
        columns: slice | Tensor = slice(first, rows.stop)
        if bias.sinks and first:
            sinks = torch.arange(min(bias.sinks, first), device=q.device)
            columns = j = torch.cat([sinks, j])
        keys = None
        if bias.by_key is not None:
            # Softmax ignores the bias of one key; that of a near one leaves small, exact numbers.
            keys = bias.by_key[..., columns] - bias.by_key[..., start : start + 1]
        parts = q[:, :, rows], k[:, :, columns], v[:, :, columns], v[:, :, rows]
        # One kernel serves all blocks, so it must not know which rows it is given.
        arguments = *parts, keys, bias, slice(None) if compiled else rows, i, j, dropout
        if training:
            block = checkpoint(
                attend_block, *arguments, use_reentrant=False, preserve_rng_state=dropout > 0
            )
        else:
            block = attend_block(*arguments)
        blocks.append(block)
    return torch.cat(blocks, dim=2).to(v.dtype)


def _attend_block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    own_v: Tensor,
    keys: Tensor | None,
    bias: Bias,
    rows: slice,
    i: Tensor,
    j: Tensor,
    dropout: float,
) -> Tensor:
    """The output of some queries, at least float32. (B, H, R, K)."""
    wide = torch.promote_types(q.dtype, torch.float32)
    block = Block(rows, i, j, bias.visible(i, j), own_v.to(wide))
    logits = (q.to(wide) * v.shape[-1] ** -0.5) @ k.to(wide).mT
    if bias.by_distance is not None:
        logits = logits + bias.by_distance[:, block.distances].to(wide)
    if keys is not None:
        logits = logits + keys[..., None, :].to(wide)
    function = bias.on_logits or PLAIN
    weights = function.weights(function.logits(logits, block), block)
    weights = F.dropout(weights, dropout)
    out = weights @ v.to(wide)
    more = function.output(weights, block)
    return out if more is None else out + more


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    """A block as a kernel for all lengths."""
    return torch.compile(_attend_block, dynamic=True)
