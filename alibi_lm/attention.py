"""Causal attention with or without a bias, behind one entry: `attend`.

Shapes, here and in the model: B sequences, T positions, H heads, K = head_dim, D = d_model,
V = vocab_size. q, k and v are (B, H, T, K).

A bias comes in one of two compact forms, and its form decides how it is computed; evaluation never
holds a bias of H x T x T (in training, autograd keeps the blocks of a `Distance`):

* `Separable` becomes extra coordinates of q and k, so that the fused causal kernel does the rest.
* `Distance` is expanded for one block of queries at a time.

`Windowed` is either of them, or no bias, of which a query sees the last keys only; a block of
queries then reads no more keys than its queries see.
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


@dataclass(frozen=True)
class Windowed:
    """The bias for 0 <= i - j < size, minus infinity beyond: at most `size` keys for a query."""

    bias: Bias | None
    size: int


AttentionBias = Bias | Windowed | None  # what `attend` takes


def attend(q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + bias) v over the keys j <= i. (B, H, T, K)."""
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if isinstance(bias, Separable):
        wide = _widen(q, k, v, bias)
        out = F.scaled_dot_product_attention(*wide, is_causal=True, scale=q.shape[-1] ** -0.5)
        return out[..., : v.shape[-1]]
    if isinstance(bias, Distance):
        return _attend_distance(q, k, v, bias, window=q.shape[2])
    if bias.size >= q.shape[2]:  # nothing lies beyond the window
        return attend(q, k, v, bias.bias)
    return _attend_windowed(q, k, v, bias)


def backend(bias: AttentionBias) -> str:
    """The name of what `attend` does with this bias, for the rows of results."""
    if bias is None:
        return "causal"
    if isinstance(bias, Windowed):
        return f"{backend(bias.bias)}_window"
    return "separable" if isinstance(bias, Separable) else "distance_blocks"


def expand(bias: Bias, length: int) -> Tensor:
    """The whole matrix, zero or f(0) on the diagonal and -inf above it: for pictures. (H, T, T)."""
    if isinstance(bias, Distance):
        return _distance_rows(bias.f, 0, length, 0)
    matrix = bias.u @ bias.w.transpose(-1, -2)
    matrix = matrix - matrix.diagonal(dim1=-2, dim2=-1)[..., None]  # softmax ignores row constants
    future = torch.ones(matrix.shape[-2:], dtype=torch.bool, device=matrix.device).triu(1)
    return matrix.masked_fill(future, -math.inf)


def _widen(q: Tensor, k: Tensor, v: Tensor, bias: Separable) -> tuple[Tensor, Tensor, Tensor]:
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

    return widen(q, u), widen(k, w), F.pad(v, (0, width - head_dim))


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


def _attend_windowed(q: Tensor, k: Tensor, v: Tensor, bias: Windowed) -> Tensor:
    """The window as a bias by distance that is zero inside it, on top of the bias's own form."""
    if isinstance(bias.bias, Distance):
        return _attend_distance(q, k, v, bias.bias, bias.size)
    inside = Distance(torch.zeros(1, q.shape[2], device=q.device))
    if bias.bias is None:
        return _attend_distance(q, k, v, inside, bias.size)
    wide = _widen(q, k, v, bias.bias)
    out = _attend_distance(*wide, inside, bias.size, scale=q.shape[-1] ** -0.5)
    return out[..., : v.shape[-1]]


def _attend_distance(
    q: Tensor, k: Tensor, v: Tensor, bias: Distance, window: int, scale: float | None = None
) -> Tensor:
    """A block of queries at a time against the keys that they may see."""
    length = q.shape[2]
    distances = torch.arange(length, device=q.device)
    f = bias.f.masked_fill(distances >= window, -math.inf)
    blocks = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        first = max(0, start - window + 1)
        mask = _distance_rows(f, start, stop, first).to(q.dtype)  # (H, stop - start, stop - first)
        block = F.scaled_dot_product_attention(
            q[:, :, start:stop],
            k[:, :, first:stop],
            v[:, :, first:stop],
            attn_mask=mask[None],
            scale=scale,
        )
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)


def _distance_rows(f: Tensor, start: int, stop: int, first: int) -> Tensor:
    """Rows start to stop - 1 of the bias matrix, columns first to stop - 1, -inf for the future.

    Row i is f(i - first), ..., f(1), f(0), -inf, ...: each row is a window of one and the same
    vector, one place further left than the row above it.
    """
    future = f.new_full((f.shape[0], stop - start - 1), -math.inf)
    columns = stop - first
    vector = torch.cat([f[:, :columns].flip(-1), future], dim=-1)  # ... f(0) -inf ...
    return vector.unfold(-1, columns, 1).flip(-2)


def attend_reference(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The definition, in float64 with the whole matrix: what every backend is tested against.

    bias: (H, T, T), from true distances; entries above the diagonal are ignored.
    """
    q, k, v, bias = q.double(), k.double(), v.double(), bias.double()
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
    future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return logits.masked_fill(future, -math.inf).softmax(-1) @ v
