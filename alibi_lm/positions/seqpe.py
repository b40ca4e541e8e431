"""SeqPE: a small Transformer reads the digits of a position and gives its embedding.

Li et al. (2025, arXiv 2506.13277), after ghrua/seqpe (text_seqpe), as its run on WikiText-103 has
it: a position is written in decimal, with zeros in front; two causal layers read its digits and a
class vector, whose output is the position's embedding e. One map for the whole model makes a query
and a key of it in each head, whose product, over sqrt(head_dim), is added to the logits of all
layers.

Two losses of the paper keep embeddings of far positions in order; both are off by default (0.1 in
the paper). Its code was read for what stands here, its numbers of them were not compared.
contrastive: of 32 other random positions, the one nearest to each must be the most similar.
transfer: blocks of positions beyond training must be as similar among themselves as those within.
Its shifts of a tenth of the training sequences and its dropout are left out.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import NO_BIAS, Bias
from alibi_lm.positions.base import SCHEMES, Draws, Position, PositionConfig, Sizes, split_heads
from alibi_lm.settings import setting

SAMPLED = 32  # positions of a loss


@dataclass
class SeqpeConfig(PositionConfig):
    """Settings of SeqPE."""

    max_positions: int = setting(20000, "positions that can be written", at_least=2, at_most=10**7)
    encoder_layers: int = setting(2, "layers that read the digits", at_least=1)
    contrastive: float = setting(0.0, "weight of the contrastive loss", at_least=0)
    transfer: float = setting(0.0, "weight of the transfer loss", at_least=0)

    def problems(self, sizes: Sizes) -> list[str]:
        """Training needs its positions, and the losses more."""
        problems = super().problems(sizes)
        least = sizes.train_length * (2 if self.transfer else 1)
        if self.max_positions < max(least, SAMPLED + 1 if self.contrastive else 0):
            problems.append(
                f"position.max_positions: given {self.max_positions}, but it must be at least "
                f"train_length = {sizes.train_length}, twice that with position.transfer, and "
                f"{SAMPLED + 1} with position.contrastive"
            )
        return problems


class EncoderLayer(nn.Module):
    """A pre-norm layer over the digits."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.n_heads = sizes.d_model, sizes.n_heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(P, digits + 1, D) -> (P, digits + 1, D)."""
        qkv = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (split_heads(y, self.n_heads) for y in qkv)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).flatten(-2))
        hidden = F.gelu(self.inner(self.ffn_norm(x)), approximate="tanh")
        added: Tensor = self.outer(hidden)
        return x + added


@SCHEMES.add("seqpe", SeqpeConfig)
class Seqpe(Position):
    """Sequential position encoding."""

    title = "SeqPE"
    family = "embedding"
    idea = "a small Transformer that reads a position's digits; its output in every logit"
    source = "Li et al. 2025"
    claim = "trained at 512, better up to 32,768 than ALiBi, rotary and sinusoidal (WikiText-103)"

    def __init__(self, config: SeqpeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        width, self.n_heads = sizes.d_model, sizes.n_heads
        self.n_digits = len(str(config.max_positions - 1))
        self.digits = nn.Parameter(torch.empty(10, width))
        self.orders = nn.Parameter(torch.empty(self.n_digits, width))
        self.whole = nn.Parameter(torch.empty(width))
        self.encoder = nn.ModuleList(EncoderLayer(sizes) for _ in range(config.encoder_layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, width)
        self.query_key = nn.Linear(width, 2 * width)

    @property
    def longest(self) -> int:
        """As many tokens as positions can be written."""
        return int(self.config.max_positions)

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Any that can be written."""
        return True

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As GPT-2's weights; norms stay 1 and 0."""
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" not in name:
            parameter.normal_(0, 0.02, generator=generator)

    def encode(self, positions: Tensor) -> Tensor:
        """The embedding of each position. (P,) -> (P, D)."""
        powers = 10 ** torch.arange(self.n_digits - 1, -1, -1, device=positions.device)
        digits = positions[:, None] // powers % 10
        x = self.digits[digits] + self.orders
        x = torch.cat([x, self.whole.expand(len(x), 1, -1)], dim=1)
        for layer in self.encoder:
            x = layer(x)
        encoded: Tensor = self.out(self.norm(x[:, -1]))
        return encoded

    def begin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The query and the key of each position. (T, H, K) or (B, T, H, K) each."""
        different, places = positions, None
        if positions.ndim == 2:
            different, places = torch.unique(positions, return_inverse=True)
        # Not too many at once, which attention would count as a batch.
        made = torch.cat(
            [self.query_key(self.encode(part)) for part in torch.split(different, 2**15)]
        )
        made = made if places is None else made[places]
        q, k = made.reshape(*positions.shape, 2, self.n_heads, -1).unbind(-3)
        return q.transpose(-3, -2), k.transpose(-3, -2)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Queries and keys twice as wide, positions behind contents."""
        wide = [
            torch.cat([content, position.to(content.dtype).expand_as(content)], dim=-1)
            for content, position in zip((q, k), begun, strict=True)
        ]
        return wide[0], wide[1], NO_BIAS

    def extra_loss(self, draws: Draws) -> Tensor | None:
        """Both losses with their weights."""
        # On the CPU, whose generator is the same on every machine.
        generator = torch.Generator().manual_seed(draws.update)
        losses = []
        if self.config.contrastive:
            losses.append(self.config.contrastive * self._contrastive(generator))
        if self.config.transfer:
            losses.append(self.config.transfer * self._transfer(generator))
        return torch.stack(losses).sum() if losses else None

    def _contrastive(self, generator: torch.Generator) -> Tensor:
        """That to each of some positions the nearest of the others is the most similar."""
        drawn = torch.randperm(self.config.max_positions, generator=generator)[: SAMPLED + 1]
        distances = (drawn[:, None] - drawn).abs()
        apart = ~torch.eye(len(drawn), dtype=torch.bool)
        nearest = distances.masked_fill(~apart, self.config.max_positions).argmin(-1)
        encoded = self.encode(drawn.to(self.digits.device))
        similar = (encoded @ encoded.mT).masked_fill(~apart.to(encoded.device), -torch.inf)
        return F.cross_entropy(similar, nearest.to(encoded.device))

    def _transfer(self, generator: torch.Generator) -> Tensor:
        """That positions moved beyond training are as similar among themselves as before."""
        count = min(SAMPLED, self.train_length)
        within = torch.randperm(self.train_length, generator=generator)[:count].sort().values
        room = self.config.max_positions - self.train_length - int(within[-1])
        shift = self.train_length + int(torch.randint(0, room, (1,), generator=generator))

        def similarities(positions: Tensor) -> Tensor:
            by_head = self.encode(positions.to(self.digits.device))
            by_head = by_head.reshape(count, self.n_heads, -1).transpose(0, 1)
            return (by_head @ by_head.mT).log_softmax(-1)

        moved, fixed = similarities(within + shift), similarities(within).detach()
        return sum_of_divergences(moved, fixed)


def sum_of_divergences(one: Tensor, other: Tensor) -> Tensor:
    """KL divergence in both directions, of log-probabilities (H, N, N); a mean over rows."""
    return ((one.exp() - other.exp()) * (one - other)).sum(-1).mean()
