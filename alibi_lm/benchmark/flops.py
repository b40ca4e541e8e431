"""Floating-point operations of a decoder's forward pass: matrix products only.

A training step takes three times as many. What the weights cost, torch counts on a real pass; what
attention costs follows from the length.
"""

import math

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from alibi_lm.model.decoder import Decoder

TOKENS = 512  # of the pass that is counted


def flops_per_token(model: Decoder, vocab_size: int, length: int) -> float:
    """Operations per token of a text of that length."""
    attention = attention_flops(len(model.blocks), model.d_model, length)
    return weight_flops(model, vocab_size) + attention


def weight_flops(model: Decoder, vocab_size: int) -> float:
    """Operations per token that the weights cost.

    Counted on words by Zipf's law, because an adaptive softmax does less for frequent ones, each a
    sequence of its own.
    """
    device = next(model.parameters()).device
    words = zipf_tokens(vocab_size, 2 * TOKENS).to(device).view(2, TOKENS, 1)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(words[0], words[1])
    counts = counter.get_flop_counts().get("Global", {})
    return float(sum(n for op, n in counts.items() if "attention" not in str(op)) / TOKENS)


def attention_flops(n_layers: int, d_model: int, length: int) -> float:
    """A query costs 4 d_model for each of the (length + 1) / 2 keys that it sees on average."""
    return n_layers * 4.0 * d_model * (length + 1) / 2


def zipf_tokens(vocab_size: int, count: int) -> Tensor:
    """Random tokens of which the word of rank r is as frequent as 1 / r. (count,)."""
    ranks = torch.rand(count, generator=torch.Generator().manual_seed(0)) * math.log(vocab_size)
    return (ranks.exp().long() - 1).clamp(0, vocab_size - 1)
