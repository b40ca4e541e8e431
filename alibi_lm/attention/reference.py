"""The definition of attention with a bias: what every backend is tested against."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import NO_BIAS, PLAIN, Bias, Block


def attend_reference(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    """In float64 with the whole matrix, (B, H, T, T); the output has v's dtype."""
    weights = F.dropout(weights_of(q, k, v, bias), dropout)
    out = weights @ v.double()
    more = (bias.on_logits or PLAIN).output(weights, _whole(v, bias))
    return (out if more is None else out + more).to(v.dtype)


def weights_of(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    """The weight of each value for each query, in float64. (B, H, T, T)."""
    function = bias.on_logits or PLAIN
    return function.weights(logits_of(q, k, v, bias), _whole(v, bias))


def logits_of(q: Tensor, k: Tensor, v: Tensor, bias: Bias = NO_BIAS) -> Tensor:
    """What softmax gets, before the mask; its finite part in float64. (B, H, T, T)."""
    added = bias.matrix(q.shape[2]).to(q.device)
    logits = q.double() @ k.double().mT / math.sqrt(v.shape[-1])
    logits = logits + added.masked_fill(added.isinf(), 0.0)
    return (bias.on_logits or PLAIN).logits(logits, _whole(v, bias))


def _whole(v: Tensor, bias: Bias) -> Block:
    """All queries and all keys."""
    j = torch.arange(v.shape[2], device=v.device)
    i = j[:, None]
    return Block(slice(0, v.shape[2]), i, j, bias.visible(i, j), v.double())
