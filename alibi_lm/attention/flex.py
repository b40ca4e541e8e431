"""Any bias by FlexAttention: one kernel, which looks the bias up while it computes the logits.

Compiled on a GPU, where it is the choice for a bias by distance and for a window. On a CPU it is
not compiled, holds the whole matrix, and serves comparisons. A function on the logits takes part if
it has a `score_mod`.
"""

import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import Bias, Form
from alibi_lm.machine.device import compile_every_shape

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # of queries and of keys; lengths are filled up to a multiple
NARROWEST = 16  # head that the compiled kernel takes


def attend_flex(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    """`attend` without dropout; learned biases get their gradients."""
    from torch.nn.attention.flex_attention import flex_attention

    assert not dropout

    length, head_dim = q.shape[2:]
    # Causal attention does not see what is filled up behind, and lengths that are no multiple of
    # the block have given NaN gradients (pytorch#153799).
    fill, widen = -length % BLOCK, max(0, NARROWEST - head_dim)
    by_distance, by_key, function = bias.by_distance, bias.by_key, bias.on_logits
    rest = None
    if by_distance is not None:
        by_distance = by_distance.float()
    if by_key is not None:
        # In two parts, whose differences are exact where keys are near, however long the text.
        exact = by_key if by_key.ndim == 3 else by_key.expand(len(q), -1, -1)
        by_key = exact.float()
        rest = (exact - by_key).float()
    if fill or widen:
        q, k, v = (F.pad(x, (0, widen, 0, fill)) for x in (q, k, v))
    if fill:
        by_distance, by_key, rest = (
            None if x is None else F.pad(x, (0, fill)) for x in (by_distance, by_key, rest)
        )

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if by_distance is not None:
            score = score + by_distance[h, (i - j).clamp(min=0)]
        if by_key is not None and rest is not None:
            score = score + (by_key[b, h, j] - by_key[b, h, i])
            score = score + (rest[b, h, j] - rest[b, h, i])
        if function is not None:
            # What is filled up has no numbers of its own.
            i, j = (place.clamp(max=length - 1) for place in (i, j))
            score = function.score_mod(score, b, h, i, j)
        return score

    compute = _compiled() if q.device.type == "cuda" else flex_attention
    out = compute(
        q,
        k,
        v,
        score_mod=None if bias.needs.form is Form.NONE else score_mod,
        block_mask=visible_blocks(
            length + fill, bias.window or length + fill, bias.sinks, q.device
        ),
        scale=head_dim**-0.5,
    )
    assert isinstance(out, Tensor)
    return out[:, :, :length, :head_dim]


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # what evaluation asks for first, training may use next
def visible_blocks(length: int, window: int, sinks: int, device: torch.device) -> "BlockMask":
    """Which blocks of keys a block of queries sees in part or whole, without a length x length."""
    from torch.nn.attention.flex_attention import BlockMask

    n = length // BLOCK
    queries = torch.arange(n, device=device)[:, None] * BLOCK  # the first of each block
    keys = torch.arange(n, device=device)[None] * BLOCK
    seen = (keys <= queries) & ((queries - (keys + BLOCK - 1) < window) | (keys < sinks))
    # Whole, if the last key is not after the first query nor the first too far from the last.
    near = (queries + BLOCK - 1 - keys < window) | (keys + BLOCK <= sinks)
    whole = (keys + BLOCK - 1 <= queries) & near

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """How many in each row, and which, those first. (1, 1, n), (1, 1, n, n), int32."""
        order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
        return blocks.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None].contiguous()

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & ((i - j < window) | (j < sinks))

    return BlockMask.from_kv_blocks(
        *listed(seen & ~whole), *listed(whole), BLOCK_SIZE=BLOCK, mask_mod=visible
    )


@functools.cache
def _compiled() -> Any:
    """FlexAttention as a kernel of its own for each shape and bias."""
    from torch.nn.attention.flex_attention import flex_attention

    compile_every_shape()
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)
