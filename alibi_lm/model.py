"""The decoder: pre-norm Transformer blocks over tied embeddings (Press et al. 2022, section 2.1).

It knows positions only through the three hooks of a `Position` and never asks which scheme it
holds. Any length can be read at inference. What comes out is the loss of each token, never logits.
"""

import math
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alibi_lm.attention import Bias, attend, choose, problem
from alibi_lm.errors import UserError
from alibi_lm.positions import Position, PositionConfig, build_position

if TYPE_CHECKING:
    from alibi_lm.config import ModelConfig

# Elements of the logits held at a time. Training holds a few tensors of as many, and computes the
# logits a second time for the backward pass where a step's do not fit at once.
LOGITS_AT_ONCE = {"evaluation": 2**23, "training": 2**24}  # 32 and 64 MiB
UNSCORED = -100  # a target that asks for no loss, as in torch's own cross_entropy


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: "ModelConfig", backend: str) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.backend = backend
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, position: Position, bias: Bias) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = position.rotate(q, k)  # (B, H, T, K)
        heads = attend(q, k, v, bias, self.backend).transpose(1, 2).flatten(-2)
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
            nn.ReLU(),
            nn.Linear(config.d_ff, config.d_model),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position: Position, bias: Bias) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), position, bias))
        x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x


class TiedSoftmax(nn.Module):
    """The output layer that shares the embedding matrix: hidden states in, token losses out."""

    def forward(self, hidden: Tensor, targets: Tensor, embedding: Tensor) -> Tensor:
        """-log p(target) in nats, float32. hidden: (B, T, D), targets: (B, T) -> (B, T).

        Zero where a target is UNSCORED.
        """
        if torch.is_grad_enabled():
            return self._with_gradients(hidden, targets, embedding)
        # Without gradients, only a slice of the logits is ever held, and of scored targets alone.
        scored = targets != UNSCORED
        hidden, wanted = hidden[scored], targets[scored]
        found = torch.empty(len(wanted), device=hidden.device)
        at_once = max(1, LOGITS_AT_ONCE["evaluation"] // len(embedding))
        for start in range(0, len(wanted), at_once):
            part = slice(start, start + at_once)
            found[part] = token_losses(hidden[part], wanted[part], embedding)
        return torch.zeros(targets.shape, device=hidden.device).masked_scatter(scored, found)

    def _with_gradients(self, hidden: Tensor, targets: Tensor, embedding: Tensor) -> Tensor:
        at_once = max(1, LOGITS_AT_ONCE["training"] // len(embedding))
        flat, wanted = hidden.flatten(0, -2), targets.flatten()
        if len(wanted) <= at_once:
            return token_losses(flat, wanted, embedding).view(targets.shape)
        device = hidden.device.type
        # With its cache, autocast would round the embedding once for all chunks, and their
        # gradients would be summed in 16 bits.
        uncached = torch.autocast(
            device,
            torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
            cache_enabled=False,
        )
        losses = []
        for start in range(0, len(wanted), at_once):
            chunk = flat[start : start + at_once], wanted[start : start + at_once], embedding
            with uncached:
                losses.append(checkpoint(token_losses, *chunk, use_reentrant=False))
        return torch.cat(losses).view(targets.shape)


def token_losses(hidden: Tensor, targets: Tensor, embedding: Tensor) -> Tensor:
    """-log p(target) in nats, float32. hidden: (N, D), targets: (N,), embedding: (V, D) -> (N,)."""
    logits = F.linear(hidden, embedding).float()
    return F.cross_entropy(logits, targets, reduction="none")


def check_backend(
    backend: str, position: Position, device: str, window: int | None, training: bool
) -> None:
    """Refuse a backend that cannot compute a scheme's attention (or its gradients) on a device."""
    if backend == "auto":
        return
    bias = replace(position.bias(1), window=window)
    if found := problem(backend, bias, device, training):
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
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.position = build_position(position, config)
        self.blocks = nn.ModuleList(Block(config, backend) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model) if config.final_norm else nn.Identity()
        self.head = TiedSoftmax()
        self.dropout = nn.Dropout(config.dropout)
        # fairseq's scale: embeddings of variance 1/D for the softmax, of variance 1 at the bottom.
        self.embedding_scale = math.sqrt(config.d_model)
        self.initialize(seed)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw every parameter from a generator of its own, seeded by (seed, name).

        What two schemes share therefore starts from identical weights, whatever else they have.
        """
        for name, parameter in self.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            if name.startswith("position."):
                self.position.initialize(name.removeprefix("position."), parameter, generator)
            elif name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            elif name == "embedding.weight":
                parameter.normal_(0, self.embedding.embedding_dim**-0.5, generator=generator)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)

    def forward(self, inputs: Tensor, targets: Tensor, window: int | None = None) -> Tensor:
        """Loss of predicting each target from the inputs up to it. (B, T), (B, T) -> (B, T).

        window: keys that a query sees at most, in every layer; None for all before it.
        """
        x = self.position.embed(self.embedding(inputs) * self.embedding_scale)
        x = self.dropout(x)
        bias = self._bias(inputs.shape[1], window)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, self.position, bias, use_reentrant=False)
            else:
                x = block(x, self.position, bias)
        losses: Tensor = self.head(self.norm(x), targets, self.embedding.weight)
        return losses

    def _bias(self, length: int, window: int | None) -> Bias:
        return replace(self.position.bias(length), window=window).at(length)

    def backend(self, length: int, window: int | None = None) -> str:
        """The backend that computes attention at a length, with gradients if they are enabled."""
        if self.wanted_backend != "auto":
            return self.wanted_backend
        device = self.embedding.weight.device.type
        return choose(self._bias(length, window), device, torch.is_grad_enabled())

    @property
    def n_parameters(self) -> int:
        """Trainable numbers; the tied embedding counts once."""
        return sum(p.numel() for p in self.parameters())

    def training_flops_per_token(self, length: int) -> float:
        """Floating-point operations of one training step, per token.

        Matrix products alone: 6 for each weight (forward 2, backward 4; the tied embedding counts
        once, as the softmax), and 12 n_layers d_model for each of the (length + 1) / 2 keys that a
        query sees on average.
        """
        matrices = [p for p in self.blocks.parameters() if p.ndim == 2]
        weights = self.embedding.weight.numel() + sum(p.numel() for p in matrices)
        attention = len(self.blocks) * self.embedding.embedding_dim * (length + 1) / 2
        return 6.0 * weights + 12.0 * attention
