"""Causal attention with or without a bias, behind one entry: `attend`.

Shapes, here and in the model: B sequences, T positions, H heads, K = head_dim, D = d_model,
V = vocab_size. v is (B, H, T, K); q and k may be wider.

A bias is given in compact form (`Bias`), and its form decides which backend computes it. Only the
reference holds H x T x T numbers, and `flex` on a CPU, where it is not compiled:

    causal       no bias: the fused causal kernel
    row          a bias by key: the CPU's fused kernel reads it as a mask of one row
    coordinates  a bias by key: extra coordinates of q and k, then the fused causal kernel
    blocks       a bias by distance or key: a block of queries at a time, against the keys it sees
    scored       anything: a block of queries at a time, with a function on its logits
    flex         any bias: FlexAttention, compiled into one kernel on a GPU
    reference    anything: the definition, in float64 with the whole matrix
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import NO_BIAS, Bias, Block, Form, Needs, OnLogits
from alibi_lm.attention.blocks import attend_blocks
from alibi_lm.attention.coordinates import attend_coordinates
from alibi_lm.attention.flex import attend_flex
from alibi_lm.attention.reference import attend_reference
from alibi_lm.attention.row import attend_row
from alibi_lm.attention.scored import attend_scored

BACKEND_MEANING = "how attention is computed; auto: the fastest for the scheme and device"
ANY_BIAS = ("blocks", "scored", "flex", "reference")  # backends that compute any numbers
PLAIN_TORCH = ("scored", "reference")  # those that compute functions on the logits
Attend = Callable[[Tensor, Tensor, Tensor, Bias, float], Tensor]


class Circumstances(NamedTuple):
    """Where and for what attention is computed, as far as it decides which backend can."""

    device: str = "cpu"  # or cuda
    training: bool = False  # whether gradients are wanted
    dropout: bool = False


class Attended(NamedTuple):
    """The output of attention, (B, H, T, K), and the backend that computed it."""

    out: Tensor
    backend: str


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Bias, backend: str = "auto", dropout: float = 0.0
) -> Attended:
    """softmax(q k^T / sqrt(head_dim) + bias) v over the keys j <= i, by the named backend.

    The scale is that of v's width; q and k may be wider, and of another dtype. dropout: the
    probability that a weight is dropped; the others are scaled up. Raises a ValueError if the named
    backend cannot compute it; `unsupported` says so beforehand.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)  # a scheme may rotate them in float32
    where = Circumstances(q.device.type, torch.is_grad_enabled(), dropout > 0)
    chosen = choose_backend(backend, bias.needs, where)
    # q, k and v have the precision that was asked for; autocast would round the bias, too.
    with torch.autocast(q.device.type, enabled=False):
        if (wider := q.shape[-1] - v.shape[-1]) and chosen not in PLAIN_TORCH:
            # Kernels want one width, and scale by it.
            scaled = q * (q.shape[-1] / v.shape[-1]) ** 0.5
            out = BACKENDS[chosen](scaled, k, F.pad(v, (0, wider)), bias, dropout)
            return Attended(out[..., : v.shape[-1]], chosen)
        return Attended(BACKENDS[chosen](q, k, v, bias, dropout), chosen)


def choose_backend(wanted: str, needs: Needs, where: Circumstances) -> str:
    """The backend that computes what is needed: the wanted one, or for auto the fastest.

    Raises a ValueError if the named one cannot.
    """
    if wanted != "auto":
        if found := unsupported(wanted, needs, where):
            raise ValueError(found)
        return wanted
    if needs.form is Form.NONE and not needs.window:
        order = ["causal", "blocks"]
    elif needs.form is Form.BY_KEY and not needs.window:
        order = ["row", "coordinates", "blocks"]
    elif needs.form is Form.ON_LOGITS:
        order = []
    else:
        order = ["blocks"] if where.device == "cpu" else ["flex", "blocks"]
    able = (name for name in order if unsupported(name, needs, where) is None)
    return next(able, "scored")


def unsupported(backend: str, needs: Needs, where: Circumstances) -> str | None:
    """Why a backend cannot compute attention (or its gradients); None if it can."""
    if needs.all_keys and needs.window:
        return "no backend computes a window for a function that needs the logits of all keys"
    if backend == "auto" or (reason := _lack(backend, needs, where)) is None:
        return None
    able = ", ".join(name for name in BACKENDS if _lack(name, needs, where) is None)
    return f"{backend} {reason}; use {able}"


def _lack(backend: str, needs: Needs, where: Circumstances) -> str | None:
    form, device = needs.form, where.device
    if where.dropout and (
        backend in ("row", "flex") or (device == "cpu" and backend not in ANY_BIAS)
    ):
        # The fused kernel of a CPU has none; torch would store the whole matrix instead.
        return "has no dropout of attention on this device"
    if backend in PLAIN_TORCH:
        return None
    if form is Form.ON_LOGITS and not (backend == "flex" and needs.score_mod):
        return "cannot compute this function of the logits"
    if backend == "flex":
        if device == "cpu" and where.training:
            return "has no gradients on a CPU"
        return None
    if needs.sinks:
        return "cannot compute sinks"
    if backend == "blocks":
        return None
    if form is Form.BY_DISTANCE:
        return "cannot compute a bias by distance"
    if needs.window:
        return "cannot compute a window"
    if backend == "causal":
        return None if form is Form.NONE else "cannot compute a bias"
    if form is Form.NONE:
        return "computes a bias by key, and there is none"
    if backend == "row" and device != "cpu":
        return "runs on a CPU only"
    return None


@functools.cache
def leave_uncompiled() -> None:
    """Keep torch.compile out of the backends that call kernels; call it before compiling.

    Compiled, `row` would store its mask whole, `blocks` would be a kernel for every block, and
    `flex` is compiled already; `scored` compiles its blocks itself. Not done where they are
    defined: it loads the compiler, which would add a second to every start.
    """
    BACKENDS["scored"] = functools.partial(attend_scored, compiled=True)
    for name in ("row", "blocks", "scored", "flex"):
        disabled = torch.compiler.disable(BACKENDS[name], recursive=name != "flex")  # type: ignore[no-untyped-call]
        BACKENDS[name] = disabled


def _attend_causal(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


BACKENDS: dict[str, Attend] = {
    "causal": _attend_causal,
    "row": attend_row,
    "coordinates": attend_coordinates,
    "blocks": attend_blocks,
    "scored": attend_scored,
    "flex": attend_flex,
    "reference": attend_reference,
}

__all__ = [
    "BACKENDS",
    "BACKEND_MEANING",
    "NO_BIAS",
    "Attend",
    "Attended",
    "Bias",
    "Block",
    "Circumstances",
    "Form",
    "Needs",
    "OnLogits",
    "attend",
    "choose_backend",
    "leave_uncompiled",
    "unsupported",
]
