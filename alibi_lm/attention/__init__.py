"""Causal attention with or without a bias, behind one entry: `attend`.

Shapes, here and in the model: B sequences, T positions, H heads, K = head_dim, D = d_model,
V = vocab_size. q, k and v are (B, H, T, K).

A bias states itself in compact form (`Bias`), and its form decides which backend computes it. None
but the reference holds H x T x T numbers, and `flex` where it is not compiled, on a CPU:

    causal       no bias: the fused causal kernel
    row          a bias by key: the CPU's fused kernel reads it as a mask of one row
    coordinates  a bias by key: extra coordinates of q and k, then the fused causal kernel
    blocks       any bias: a block of queries at a time, against the keys that these may see
    flex         any bias: FlexAttention, compiled into one kernel on a GPU
    reference    any bias: the definition, in float64 with the whole matrix
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import Bias
from alibi_lm.attention.blocks import attend_blocks
from alibi_lm.attention.coordinates import attend_coordinates
from alibi_lm.attention.flex import attend_flex
from alibi_lm.attention.reference import attend_reference
from alibi_lm.attention.row import attend_row

ANY_BIAS = ("blocks", "flex", "reference")  # backends that compute whatever a Bias can say
Attend = Callable[[Tensor, Tensor, Tensor, Bias, float], Tensor]


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Bias, backend: str = "auto", dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + bias) v over the keys j <= i. (B, H, T, K).

    dropout: the probability that an element of the softmax is dropped; the others grow for it.
    Raises a ValueError if the named backend cannot; `problem` says so beforehand.
    """
    bias, device, training = bias.at(q.shape[2]), q.device.type, torch.is_grad_enabled()
    q, k = q.to(v.dtype), k.to(v.dtype)  # a scheme may turn them in float32
    if backend == "auto":
        backend = choose(bias, device, training, dropout)
    elif found := problem(backend, bias, device, training, dropout):
        raise ValueError(found)
    # q, k and v have the precision that was asked for; autocast would round the bias, too.
    with torch.autocast(device, enabled=False):
        return BACKENDS[backend](q, k, v, bias, dropout)


def choose(bias: Bias, device: str, training: bool, dropout: float = 0.0) -> str:
    """The backend for a bias on a device (`cpu` or `cuda`)."""
    if device == "cpu" and dropout:
        return "blocks"
    if bias.by_distance is not None or bias.window is not None:
        return "blocks" if device == "cpu" or dropout else "flex"
    if bias.by_key is None:
        return "causal"
    return "coordinates" if problem("row", bias, device, training) else "row"


def problem(
    backend: str, bias: Bias, device: str, training: bool, dropout: float = 0.0
) -> str | None:
    """Why a backend cannot compute a bias on a device, or its gradients; None if it can."""
    if dropout and (backend in ("row", "flex") or (device == "cpu" and backend not in ANY_BIAS)):
        # The fused kernel of a CPU has none; torch would store the whole matrix instead.
        return f"{backend} has no dropout of attention on this device; blocks, reference have"
    if backend == "flex" and device == "cpu" and training:
        return "flex has no gradients on a CPU; blocks, reference have"
    if backend in ANY_BIAS:
        return None
    able = f"; {', '.join(ANY_BIAS)} can"
    if bias.by_distance is not None:
        return f"{backend} cannot compute a bias by distance{able}"
    if bias.window is not None:
        return f"{backend} cannot compute a window{able}"
    if backend == "causal":
        return None if bias.by_key is None else f"causal cannot compute a bias{able}"
    if bias.by_key is None:
        return f"{backend} computes a bias by key, and there is none; causal does without"
    if backend == "row" and device != "cpu":
        return "row is for a CPU alone; coordinates computes the same"
    if backend == "row" and training and bias.by_key.requires_grad:
        return "row gives a learned bias no gradient; coordinates does"
    return None


@functools.cache
def leave_uncompiled() -> None:
    """Keep torch.compile, before it is used, out of the backends that call kernels as they are.

    Compiled, `row` would store its mask whole, `blocks` would be a kernel for every block, and
    `flex` is compiled already. Not done where they are defined: it loads the compiler, a second of
    every start.
    """
    for name in ("row", "blocks", "flex"):
        disabled = torch.compiler.disable(BACKENDS[name], recursive=name != "flex")  # type: ignore[no-untyped-call]
        BACKENDS[name] = disabled


def _attend_causal(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


BACKENDS: dict[str, Attend] = {
    "causal": _attend_causal,
    "row": attend_row,
    "coordinates": attend_coordinates,
    "blocks": attend_blocks,
    "flex": attend_flex,
    "reference": attend_reference,
}

__all__ = ["BACKENDS", "Attend", "Bias", "attend", "choose", "leave_uncompiled", "problem"]
