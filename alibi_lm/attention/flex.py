"""Any bias by FlexAttention: one kernel, which looks the bias up while it computes the logits.

Compiled on a GPU, where it is the choice for a bias by distance and for a window. On a CPU it is
not compiled, holds the whole matrix, and serves the tests.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from alibi_lm.attention.bias import Bias

BLOCK = 128  # of queries and of keys; lengths are filled up to a multiple


def attend_flex(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    """`attend` for any bias; learned ones get their gradients."""
    length = q.shape[2]
    # Causal attention does not see what is filled up behind, and lengths that are no multiple of
    # the block have given gradients that are no numbers (pytorch#153799).
    fill = -length % BLOCK
    q, k, v = (F.pad(x, (0, 0, 0, fill)) for x in (q, k, v))
    by_distance, by_key = (
        None if x is None else F.pad(x, (0, fill)) for x in (bias.by_distance, bias.by_key)
    )

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if by_distance is not None:
            score = score + by_distance[h, (i - j).clamp(min=0)]
        if by_key is not None:
            score = score + by_key[h, j]
        return score

    window = bias.window or length + fill
    mask = visible_blocks(length + fill, window, q.device)
    compute = _compiled() if q.device.type == "cuda" else flex_attention
    changes = by_distance is not None or by_key is not None
    out = compute(q, k, v, score_mod=score_mod if changes else None, block_mask=mask)
    assert isinstance(out, Tensor)
    return out[:, :, :length]


@functools.lru_cache(maxsize=16)
def visible_blocks(length: int, window: int, device: torch.device) -> BlockMask:
    """Which blocks of keys a block of queries sees in part or whole, without a length x length."""
    n = length // BLOCK
    queries = torch.arange(n, device=device)[:, None] * BLOCK  # the first of each block
    keys = torch.arange(n, device=device)[None] * BLOCK
    seen = (keys <= queries) & (queries - (keys + BLOCK - 1) < window)
    # Whole, if the last key is not after the first query nor the first too far from the last.
    whole = (keys + BLOCK - 1 <= queries) & (queries + BLOCK - 1 - keys < window)

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """How many in each row, and which, those first. (1, 1, n), (1, 1, n, n), int32."""
        order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
        return blocks.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None].contiguous()

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j < window)

    return BlockMask.from_kv_blocks(
        *listed(seen & ~whole), *listed(whole), BLOCK_SIZE=BLOCK, mask_mod=visible
    )


@functools.cache
def _compiled():  # type: ignore[no-untyped-def]
    """FlexAttention as a kernel of its own for each length and bias."""
    # Beyond its limit dynamo would go on uncompiled, that is with the whole matrix.
    torch._dynamo.config.recompile_limit = 256
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)
