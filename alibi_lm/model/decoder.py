"""The decoder: pre-norm Transformer blocks on tied embeddings (Press et al. 2022, section 2.1).

It knows positions only through the hooks of a `Position` and never asks which scheme it
holds. Any length can be read at inference. What comes out is the loss of each token, not logits.
"""

import math
import zlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.utils.checkpoint import checkpoint

from alibi_lm.attention import attend
from alibi_lm.model.adaptive import AdaptiveSoftmax, band_edges
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.softmax import TiedSoftmax
from alibi_lm.positions import SCHEMES, Draws, Position, PositionConfig


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Without initial values, which are drawn by name or loaded."""
    linear: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    return linear


class Attention(nn.Module):
    """Causal self-attention of one layer, the layer's number counted from 0."""

    def __init__(self, config: ModelConfig, layer: int, backend: str) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.layer = layer
        self.wanted_backend = backend
        self.backend = ""  # that ran last
        self.qkv = _linear(config.d_model, 3 * config.d_model)
        self.out = _linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, position: Position, begun: Any, window: int | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, bias = position(self.layer, x, q, k, begun)  # (B, H, T, K)
        bias = bias.within(window, x.shape[1])
        dropout = self.dropout if self.training else 0.0
        heads, self.backend = attend(q, k, v, bias, self.wanted_backend, dropout)
        out: Tensor = self.out(heads.transpose(1, 2).flatten(-2))
        return out


class Block(nn.Module):
    """Attention, then a feed-forward layer; each normalises its input and adds to the stream."""

    def __init__(self, config: ModelConfig, layer: int, backend: str) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config, layer, backend)
        self.ffn_norm = nn.LayerNorm(config.d_model)
        self.ffn = nn.Sequential(
            _linear(config.d_model, config.d_ff),
            nn.Sequential(nn.ReLU(), nn.Dropout(config.activation_dropout)),
            _linear(config.d_ff, config.d_model),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position: Position, begun: Any, window: int | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), position, begun, window))
        x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x


class Decoder(nn.Module):
    """A decoder-only language model whose forward pass gives the loss of each token.

    train_length: what schemes know of the training. seed: of the initial weights; None leaves them
    undefined, for weights that are loaded. backend: how attention is computed, `auto` or one of
    attention.BACKENDS. checkpointing: keep only each block's input for the backward pass and
    recompute the rest.
    """

    def __init__(
        self,
        config: ModelConfig,
        position: PositionConfig,
        vocab_size: int,
        train_length: int,
        seed: int | None = 0,
        backend: str = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.casts = True  # its weights are in float32, autocast computes in other dtypes
        self.checkpointing = checkpointing
        self.embedding = build_softmax(config, vocab_size)
        # The caller's generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed_of(seed or 0, "position"))
            self.position: Position = SCHEMES.build(position, config.sizes(train_length))
        self.blocks = nn.ModuleList(
            Block(config, layer, backend) for layer in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(config.d_model) if config.final_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.d_model = config.d_model
        # fairseq's scale: embeddings of variance 1/D for the softmax, of variance 1 at the bottom.
        self.embedding_scale = math.sqrt(config.d_model)
        if seed is not None:
            self.initialize(seed, config.init)

    @torch.no_grad()
    def initialize(self, seed: int, init: str) -> None:
        """Draw every parameter from its own generator, seeded by (seed, name).

        The parameters that two schemes share therefore start from identical weights.
        init: `xavier`, or `fairseq`, which leaves torch's nn.Linear defaults (uniform up to
        1 / sqrt(inputs)) in the feed-forward layers and in the biases of queries, keys and values.
        (Its queries, keys and values, of gain 1 / sqrt(2) each, are one Xavier matrix here.)
        """
        plain_linear = ("ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias", "qkv.bias")
        modules = dict(self.named_modules())
        for name, parameter in self.named_parameters():
            generator = torch.Generator().manual_seed(_seed_of(seed, name))
            if name.startswith("position."):
                self.position.draw(name.removeprefix("position."), parameter, generator)
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
        self.position.constrain()

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        window: int | None = None,
        draws: Draws | None = None,
    ) -> Tensor:
        """Loss of predicting each target from the inputs up to it. (B, T), (B, T) -> (B, T).

        window: how many keys a query sees at most, in every layer; None for all before it.
        draws: random numbers for schemes that draw positions or have a loss of their own, in
        training.
        """
        losses = self.embedding.losses(self.hidden(inputs, window, draws), targets)
        extra = None if draws is None else self.position.extra_loss(draws)
        # Its gradient alone is added: what is reported stays the loss of the text.
        return losses if extra is None else losses + (extra - extra.detach())

    def hidden(
        self, inputs: Tensor, window: int | None = None, draws: Draws | None = None
    ) -> Tensor:
        """What the softmax is given. (B, T) -> (B, T, D)."""
        begun = self.position.begin(self.position.positions(inputs, draws))
        x = self.position.embed(self.embedding.embed(inputs) * self.embedding_scale, begun)
        x = self.dropout(x)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, self.position, begun, window, use_reentrant=False)
            else:
                x = block(x, self.position, begun, window)
        normalised: Tensor = self.norm(x)
        return normalised

    @property
    def backend(self) -> str:
        """What computed attention in the last forward pass: of each layer, where they differ."""
        blocks: Any = self.blocks
        return "+".join(dict.fromkeys(block.attention.backend for block in blocks))

    @property
    def longest(self) -> int | None:
        """The longest text that can be read; None for any."""
        return self.position.longest

    def refusal(self, length: int, window: int | None) -> str | None:
        """Why it cannot read texts of that length within that window; None if it can."""
        if self.longest is not None and length > self.longest:
            return f"it has {self.longest} positions"
        return None

    @property
    def prefix_consistent(self) -> bool:
        """Whether what a token gets is the same if the text goes on behind it."""
        return self.position.prefix_consistent

    @property
    def n_parameters(self) -> int:
        """Trainable numbers; what is tied counts once."""
        return sum(p.numel() for p in self.parameters())


def _seed_of(seed: int, name: str) -> int:
    return zlib.crc32(f"{seed} {name}".encode())


def build_softmax(config: ModelConfig, vocab_size: int) -> TiedSoftmax | AdaptiveSoftmax:
    """The input and output layer: adaptive if there are cutoffs, one matrix if there are none."""
    if not config.cutoffs:
        return TiedSoftmax(vocab_size, config.d_model)
    cutoffs, factor, dropout = config.cutoffs, config.cutoff_factor, config.softmax_dropout
    return AdaptiveSoftmax(vocab_size, config.d_model, cutoffs, factor, dropout)


def check_vocabulary(config: ModelConfig, vocab_size: int) -> None:
    """Refuse cutoffs beyond the vocabulary, before anything is built."""
    if config.cutoffs:
        band_edges(config.cutoffs, vocab_size)
