"""Causal attention with or without a bias, behind one entry: `attend`.

Shapes, here and in the model: B sequences, T positions, H heads, K = head_dim, D = d_model,
V = vocab_size. q, k and v are (B, H, T, K).

A bias comes in one of two compact forms, and its form decides how it is computed; evaluation never
holds a bias of H x T x T (in training, autograd keeps the blocks of a `Distance`):

* `Separable` becomes extra coordinates of q and k, so that the fused causal kernel does the rest.
* `Distance` is expanded for one block of queries at a time.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

QUERY_BLOCK = 256  # queries whose distance bias is expanded at once


@dataclass(frozen=True)
class Separable:
    """bias(i, j) = u_i . w_j for j <= i, up to a constant for each i, which softmax ignores.

    u, w: (H, T, R), float32.
    """

    u: Tensor
    w: Tensor


@dataclass(frozen=True)
class Distance:
    """bias(i, j) = f(i - j) for j <= i. f: (H, T), by distance from 0 to T - 1."""

    f: Tensor


Bias = Separable | Distance


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Bias | None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + bias) v over the keys j <= i. (B, H, T, K)."""
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if isinstance(bias, Separable):
        return _attend_separable(q, k, v, bias)
    return _attend_distance(q, k, v, bias)


def backend(bias: Bias | None) -> str:
    """The name of what `attend` does with this bias, for the rows of results."""
    if bias is None:
        return "causal"
    return "separable" if isinstance(bias, Separable) else "distance_blocks"


def _attend_separable(q: Tensor, k: Tensor, v: Tensor, bias: Separable) -> Tensor:
    """The bias as coordinates: (q, u sqrt(K)) . (k, w) / sqrt(K) = q . k / sqrt(K) + u . w."""
    batch, _, _, head_dim = q.shape
    u, w = bias.u * math.sqrt(head_dim), bias.w
    if q.dtype != torch.float32:
        u, w = _exact_factors(u, w, q.dtype)
    # Fused kernels want q, k and v of one width, and but for float32 on a CPU a multiple of 8.
    width = head_dim + u.shape[-1]
    if q.dtype != torch.float32 or q.device.type != "cpu":
        width += -width % 8

    def widen(x: Tensor, extra: Tensor) -> Tensor:
        zeros = width - head_dim - extra.shape[-1]
        return torch.cat([x, F.pad(extra, (0, zeros)).to(x.dtype).expand(batch, -1, -1, -1)], -1)

    q, k, v = widen(q, u), widen(k, w), F.pad(v, (0, width - head_dim))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / math.sqrt(head_dim))
    return out[..., :head_dim]


def _exact_factors(u: Tensor, w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors whose elements a 16-bit dtype holds exactly and whose products sum to u . w.

    One rounded coordinate is not enough: bfloat16 holds whole numbers only up to 256, so the
    position of a far key would be wrong by more than the bias of its neighbours differs, and the
    more so the longer the text, just as if the scheme did not extrapolate. Each number is
    therefore written as a sum of three 16-bit parts, leading part first; of the nine products the
    three smallest are below 2^-24 of the whole (float32's own rounding) and left out. Kernels
    accumulate in float32.
    """
    u_parts, w_parts = _split(u, dtype), _split(w, dtype)
    pairs = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]
    return (
        torch.cat([u_parts[a] for a, _ in pairs], dim=-1),
        torch.cat([w_parts[b] for _, b in pairs], dim=-1),
    )


def _split(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Three float32 tensors that `dtype` holds exactly and whose sum is x to 24 bits."""
    parts = []
    for _ in range(3):
        part = x.to(dtype).float()
        parts.append(part)
        x = x - part
    return parts


def _attend_distance(q: Tensor, k: Tensor, v: Tensor, bias: Distance) -> Tensor:
    """A block of queries at a time against the keys that they may see."""
    length = q.shape[2]
    blocks = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        mask = _distance_rows(bias.f, start, stop).to(q.dtype)  # (H, stop - start, stop)
        block = F.scaled_dot_product_attention(
            q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], attn_mask=mask[None]
        )
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)


def _distance_rows(f: Tensor, start: int, stop: int) -> Tensor:
    """Rows start to stop - 1 of the bias matrix, columns 0 to stop - 1, -inf above the diagonal.

    Row i is f(i), f(i - 1), ..., f(0), -inf, ...: each row is a window of one and the same vector,
    one place further left than the row above it.
    """
    future = f.new_full((f.shape[0], stop - start - 1), -math.inf)
    vector = torch.cat([f[:, :stop].flip(-1), future], dim=-1)  # f(stop - 1) ... f(0) -inf ...
    return vector.unfold(-1, stop, 1).flip(-2)


def attend_reference(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The definition, in float64 with the whole matrix: what every backend is tested against.

    bias: (H, T, T), from true distances; entries above the diagonal are ignored.
    """
    q, k, v, bias = q.double(), k.double(), v.double(), bias.double()
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
    future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return logits.masked_fill(future, -math.inf).softmax(-1) @ v
