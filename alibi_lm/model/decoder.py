"""The decoder: pre-norm Transformer blocks on tied embeddings (Press et al. 2022, section 2.1).

It knows positions only through the three hooks of a `Position` and never asks which scheme it
holds. Any length can be read at inference. What comes out is the loss of each token, never logits.
"""

import math
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alibi_lm.attention import Bias, attend, choose, problem
from alibi_lm.errors import UserError
from alibi_lm.model.adaptive import AdaptiveSoftmax, band_edges
from alibi_lm.model.softmax import TiedSoftmax
from alibi_lm.positions import Position, PositionConfig, build_position

if TYPE_CHECKING:
    from alibi_lm.config import ModelConfig


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: "ModelConfig", backend: str) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.backend = backend
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, position: Position, bias: Bias) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = position.rotate(q, k)  # (B, H, T, K)
        dropout = self.dropout if self.training else 0.0
        heads = attend(q, k, v, bias, self.backend, dropout).transpose(1, 2).flatten(-2)
        out: Tensor = self.out(heads)
        return out


class Block(nn.Module):
    """Attention, then a feed-forward layer; each normalises its input and adds to the stream."""

    def __init__(self, config: "ModelConfig", backend: str) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config, backend)
        self.ffn_norm = nn.LayerNorm(config.d_model)
        self.ffn = nn.Sequential(
            nn.Linear(config.d_model, config.d_ff),
            nn.Sequential(nn.ReLU(), nn.Dropout(config.activation_dropout)),
            nn.Linear(config.d_ff, config.d_model),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position: Position, bias: Bias) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), position, bias))
        x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x


def check_backend(
    backend: str,
    position: Position,
    device: str,
    window: int | None = None,
    training: bool = False,
    dropout: float = 0.0,
) -> None:
    """Refuse a backend that cannot compute a scheme's attention (or its gradients) on a device."""
    if backend == "auto":
        return
    bias = replace(position.bias(1), window=window)
    if found := problem(backend, bias, device, training, dropout):
        raise UserError(f"backend: given {backend}, but {found}; auto chooses one that can")


class Decoder(nn.Module):
    """A decoder-only language model whose forward pass gives the loss of each token.

    backend: how attention is computed, `auto` or one of attention.BACKENDS. checkpointing: keep
    each block's input alone for the backward pass and compute the rest again.
    """

    def __init__(
        self,
        config: "ModelConfig",
        position: PositionConfig,
        vocab_size: int,
        seed: int = 0,
        backend: str = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.wanted_backend = backend
        self.checkpointing = checkpointing
        self.attention_dropout = config.attention_dropout
        self.embedding = build_softmax(config, vocab_size)
        self.position = build_position(position, config)
        self.blocks = nn.ModuleList(Block(config, backend) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model) if config.final_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.d_model = config.d_model
        # fairseq's scale: embeddings of variance 1/D for the softmax, of variance 1 at the bottom.
        self.embedding_scale = math.sqrt(config.d_model)
        self.initialize(seed, config.init)

    @torch.no_grad()
    def initialize(self, seed: int, init: str) -> None:
        """Draw every parameter from a generator of its own, seeded by (seed, name).

        What two schemes share therefore starts from identical weights, whatever else they have.
        init: `xavier`, or `fairseq` for what it leaves to torch's nn.Linear: the feed-forward
        layers and the biases of queries, keys and values, uniform up to 1 / sqrt(inputs). (Its
        queries, keys and values, of gain 1 / sqrt(2) each, are one Xavier matrix here.)
        """
        plain_linear = ("ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias", "qkv.bias")
        modules = dict(self.named_modules())
        for name, parameter in self.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            if name.startswith("position."):
                self.position.initialize(name.removeprefix("position."), parameter, generator)
            elif name.startswith("embedding."):
                self.embedding.initialize(name.removeprefix("embedding."), parameter, generator)
            elif init == "fairseq" and name.endswith(plain_linear):
                bound = modules[name.rpartition(".")[0]].in_features ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)

    def forward(self, inputs: Tensor, targets: Tensor, window: int | None = None) -> Tensor:
        """Loss of predicting each target from the inputs up to it. (B, T), (B, T) -> (B, T).

        window: keys that a query sees at most, in every layer; None for all before it.
        """
        x = self.position.embed(self.embedding.embed(inputs) * self.embedding_scale)
        x = self.dropout(x)
        bias = self._bias(inputs.shape[1], window)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, self.position, bias, use_reentrant=False)
            else:
                x = block(x, self.position, bias)
        return self.embedding.losses(self.norm(x), targets)

    def _bias(self, length: int, window: int | None) -> Bias:
        return replace(self.position.bias(length), window=window).at(length)

    def backend(self, length: int, window: int | None = None) -> str:
        """The backend that computes attention at a length, with gradients if they are enabled."""
        if self.wanted_backend != "auto":
            return self.wanted_backend
        device, training = next(self.parameters()).device.type, torch.is_grad_enabled()
        dropout = self.attention_dropout if training else 0.0
        return choose(self._bias(length, window), device, training, dropout)

    @property
    def n_parameters(self) -> int:
        """Trainable numbers; what is tied counts once."""
        return sum(p.numel() for p in self.parameters())

    def training_flops_per_token(self, length: int) -> float:
        """Floating-point operations of one training step, per token.

        Matrix products alone: 6 for each weight that a token meets (forward 2, backward 4), and
        12 n_layers d_model for each of the (length + 1) / 2 keys that a query sees on average.
        """
        matrices = [p for p in self.blocks.parameters() if p.ndim == 2]
        weights = self.embedding.weights_per_token() + sum(p.numel() for p in matrices)
        attention = len(self.blocks) * self.d_model * (length + 1) / 2
        return 6.0 * weights + 12.0 * attention


def build_softmax(config: "ModelConfig", vocab_size: int) -> TiedSoftmax | AdaptiveSoftmax:
    """The input and output layer: adaptive if there are cutoffs, one matrix if there are none."""
    if not config.cutoffs:
        return TiedSoftmax(vocab_size, config.d_model)
    cutoffs, factor, dropout = config.cutoffs, config.cutoff_factor, config.softmax_dropout
    return AdaptiveSoftmax(vocab_size, config.d_model, cutoffs, factor, dropout)


def check_vocabulary(config: "ModelConfig", vocab_size: int) -> None:
    """Refuse cutoffs that the vocabulary does not reach, before anything is built."""
    if config.cutoffs:
        band_edges(config.cutoffs, vocab_size)
