"""The definition of attention with a bias: what every backend is tested against."""

import math

import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import Bias


def attend_reference(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    """In float64 with the whole matrix, (H, T, T); the output has q's dtype."""
    matrix = bias.matrix(q.shape[2]).to(q.device)
    return define(q, k, v, matrix, dropout).to(q.dtype)


def define(q: Tensor, k: Tensor, v: Tensor, matrix: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + matrix) v, in float64.

    q: (B, H, T or some of it, K); matrix: (H, as many, T), -inf for keys that are not seen.
    """
    logits = q.double() @ k.double().transpose(-1, -2) / math.sqrt(q.shape[-1])
    return F.dropout((logits + matrix.double()).softmax(-1), dropout) @ v.double()
