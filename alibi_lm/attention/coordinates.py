"""A bias by key as extra coordinates: (q, u) . (k, w) / sqrt(K) = q . k / sqrt(K) + by_key.

The plain causal kernel of whatever device does the rest, and a learned bias gets its gradient.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import Bias

# The query's side of a product, a power of two: the key's side is smaller by it, so that float16,
# which ends at 65,504, holds the bias of millions of tokens.
UNIT = 256.0


def attend_coordinates(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    """`attend` for a bias by key alone."""
    head_dim = q.shape[-1]
    out = F.scaled_dot_product_attention(
        *widen(q, k, v, bias), is_causal=True, scale=head_dim**-0.5, dropout_p=dropout
    )
    return out[..., :head_dim]


def widen(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v with the coordinates that stand for the bias; v's are zero."""
    assert bias.by_key is not None
    batch, _, _, head_dim = q.shape
    # (H, T, 1) or (B, H, T, 1)
    w = (bias.by_key * (math.sqrt(head_dim) / UNIT)).float()[..., None]
    parts = [w] if q.dtype == torch.float32 else _exact_parts(w, q.dtype)
    u = [torch.full_like(w, UNIT)] * len(parts)
    if w.requires_grad:
        # A coordinate of zeros, whose gradient is that of the query's own place; see blocks.py.
        parts.append(u[0])
        u = [*u, w.detach() - w]
    w, queries = torch.cat(parts, dim=-1), torch.cat(u, dim=-1)
    # Fused kernels want q, k and v of one width, and but for float32 on a CPU a multiple of 8.
    width = head_dim + w.shape[-1]
    if q.dtype != torch.float32 or q.device.type != "cpu":
        width += -width % 8

    def append(x: Tensor, extra: Tensor) -> Tensor:
        zeros = width - head_dim - extra.shape[-1]
        return torch.cat([x, F.pad(extra, (0, zeros)).to(x.dtype).expand(batch, -1, -1, -1)], -1)

    return append(q, queries), append(k, w), F.pad(v, (0, width - head_dim))


def _exact_parts(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Three float32 tensors that a 16-bit dtype holds exactly and whose sum is x to 24 bits.

    One rounded coordinate is not enough: bfloat16 holds whole numbers only up to 256, so the
    position of a far key would be wrong by more than the bias of its neighbours differs, and the
    more so the longer the text, just as if the scheme did not extrapolate. Kernels accumulate in
    float32, so the sum of the parts is what float32 would have had.
    """
    parts = []
    for _ in range(3):
        part = x.to(dtype).float()
        parts.append(part)
        x = x - part
    return parts
