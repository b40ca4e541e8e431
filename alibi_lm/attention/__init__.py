"""Causal attention with or without a bias, behind one entry: `attend`.

Shapes, here and in the model: B sequences, T positions, H heads, K = head_dim, D = d_model,
V = vocab_size. q, k and v are (B, H, T, K).

A bias is given in compact form (`Bias`), and its form decides which backend computes it. Only the
reference holds H x T x T numbers, and `flex` on a CPU, where it is not compiled:

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

from alibi_lm.attention.bias import NO_BIAS, Bias, Form
from alibi_lm.attention.blocks import attend_blocks
from alibi_lm.attention.coordinates import attend_coordinates
from alibi_lm.attention.flex import attend_flex
from alibi_lm.attention.reference import attend_reference
from alibi_lm.attention.row import attend_row

ANY_BIAS = ("blocks", "flex", "reference")  # backends that compute every form
BACKEND_MEANING = "how attention is computed; auto: the fastest for the scheme and device"
Attend = Callable[[Tensor, Tensor, Tensor, Bias, float], Tensor]


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Bias, backend: str = "auto", dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + bias) v over the keys j <= i. (B, H, T, K).

    dropout: the probability that an element of the softmax is dropped; the others are scaled up.
    Raises a ValueError if the named backend cannot compute it; `unsupported` says so beforehand.
    """
    bias = Bias(bias.by_distance, bias.by_key).within(bias.window, q.shape[2])
    training = torch.is_grad_enabled()
    backend = choose_backend(backend, bias, q.device.type, training, dropout)
    return compute(q, k, v, bias, backend, dropout)


def compute(
    q: Tensor, k: Tensor, v: Tensor, bias: Bias, backend: str, dropout: float = 0.0
) -> Tensor:
    """`attend` by a backend that `choose_backend` has chosen for the bias."""
    q, k = q.to(v.dtype), k.to(v.dtype)  # a scheme may rotate them in float32
    # q, k and v have the precision that was asked for; autocast would round the bias, too.
    with torch.autocast(q.device.type, enabled=False):
        return BACKENDS[backend](q, k, v, bias, dropout)


def choose_backend(
    wanted: str, bias: Bias, device: str, training: bool, dropout: float = 0.0
) -> str:
    """The backend that computes a bias on a device (`cpu` or `cuda`).

    wanted: its name, or auto. Raises a ValueError if the named one cannot.
    """
    learned = bias.by_key is not None and bias.by_key.requires_grad
    case = (bias.form, bias.window is not None, device, training, dropout > 0, learned)
    if wanted == "auto":
        return _fastest(*case)
    if found := unsupported(wanted, *case):
        raise ValueError(found)
    return wanted


@functools.cache
def _fastest(
    form: Form, window: bool, device: str, training: bool, dropout: bool, learned: bool
) -> str:
    if device == "cpu" and dropout:
        return "blocks"
    if form is Form.BY_DISTANCE or window:
        return "blocks" if device == "cpu" or dropout else "flex"
    if form is Form.NONE:
        return "causal"
    rest = (device, training, dropout, learned)
    return "coordinates" if unsupported("row", form, window, *rest) else "row"


@functools.cache
def unsupported(
    backend: str,
    form: Form,
    window: bool = False,
    device: str = "cpu",
    training: bool = False,
    dropout: bool = False,
    learned: bool = False,
) -> str | None:
    """Why a backend cannot compute attention of this form (or its gradients); None if it can.

    learned: whether a bias by key needs gradients.
    """
    case = (form, window, device, training, dropout, learned)
    if (reason := _lack(backend, *case)) is None:
        return None
    able = ", ".join(name for name in BACKENDS if _lack(name, *case) is None)
    return f"{backend} {reason}; use {able}"


def _lack(
    backend: str,
    form: Form,
    window: bool,
    device: str,
    training: bool,
    dropout: bool,
    learned: bool,
) -> str | None:
    if backend == "auto":
        return None
    if dropout and (backend in ("row", "flex") or (device == "cpu" and backend not in ANY_BIAS)):
        # The fused kernel of a CPU has none; torch would store the whole matrix instead.
        return "has no dropout of attention on this device"
    if backend == "flex" and device == "cpu" and training:
        return "has no gradients on a CPU"
    if backend in ANY_BIAS:
        return None
    if form is Form.BY_DISTANCE:
        return "cannot compute a bias by distance"
    if window:
        return "cannot compute a window"
    if backend == "causal":
        return None if form is Form.NONE else "cannot compute a bias"
    if form is Form.NONE:
        return "computes a bias by key, and there is none"
    if backend == "row" and device != "cpu":
        return "runs on a CPU only"
    if backend == "row" and training and learned:
        return "gives a learned bias no gradient"
    return None


@functools.cache
def leave_uncompiled() -> None:
    """Keep torch.compile out of the backends that call kernels; call it before compiling.

    Compiled, `row` would store its mask whole, `blocks` would be a kernel for every block, and
    `flex` is compiled already. Not done where they are defined: it loads the compiler, which would
    add a second to every start.
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

__all__ = [
    "BACKENDS",
    "BACKEND_MEANING",
    "NO_BIAS",
    "Attend",
    "Bias",
    "Form",
    "attend",
    "choose_backend",
    "compute",
    "leave_uncompiled",
    "unsupported",
]
