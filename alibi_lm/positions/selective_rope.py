"""Selective RoPE: rotary whose angles are sums of steps that the tokens themselves decide.

Movahedi, Carstensen et al. (ICLR 2026, arXiv 2511.17388), after timurcarstensen/selective-rope. The
step of a token comes from the layer's input, normalised in each head's part to length 1: a low-rank
map (`rank`; null: a full one for each head, its columns of length 1), a causal convolution over
`taps` tokens in each channel, and by choice exp(b) added and a gate. Angles are the sums of steps
up to the token, times theta^(-2m / K) for pair m; queries and keys are turned by the same angles.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import NO_BIAS, Bias
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes, odd_heads, split_heads
from alibi_lm.positions.rotary import rotate
from alibi_lm.settings import setting

EPS = 1e-6


@dataclass
class SelectiveRopeConfig(PositionConfig):
    """Settings of selective RoPE."""

    theta: float = setting(500000.0, "base of the wavelengths", above=1)
    largest: float = setting(1.0, "factor on all angles", above=0)
    rank: int | None = setting(16, "of the map to steps; null: full, in each head", at_least=1)
    taps: int = setting(4, "tokens that the convolution of the steps sees", at_least=1)
    bias: bool = setting(False, "add exp(b) to the steps, b learned")
    gate: bool = setting(False, "a gate for each head and token on its steps")

    def problems(self, sizes: Sizes) -> list[str]:
        """Coordinates are turned in pairs."""
        return super().problems(sizes) + odd_heads(self.kind, sizes)


class Steps(nn.Module):
    """How far each token turns each pair, in one layer."""

    def __init__(self, config: SelectiveRopeConfig, sizes: Sizes) -> None:
        super().__init__()
        self.n_heads = sizes.n_heads
        channels = sizes.d_model // 2
        if config.rank is not None:
            self.down = nn.Linear(sizes.d_model, config.rank, bias=False)
            self.up = nn.Linear(config.rank, channels, bias=False)
        else:
            shape = (sizes.n_heads, sizes.head_dim, sizes.head_dim // 2)
            self.full = nn.Parameter(torch.randn(shape))
            self.scale = nn.Parameter(torch.ones(sizes.n_heads))
        self.convolution = nn.Conv1d(channels, channels, config.taps, groups=channels, bias=False)
        shape = (sizes.n_heads, 1, sizes.head_dim // 2)
        self.bias = nn.Parameter(torch.zeros(shape)) if config.bias else None
        self.gate = nn.Linear(sizes.d_model, sizes.n_heads) if config.gate else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, K/2)."""
        parts = x.reshape(*x.shape[:2], self.n_heads, -1)
        parts = parts * (parts.square().sum(-1, keepdim=True) + EPS).rsqrt()
        normed = parts.flatten(-2)
        if hasattr(self, "full"):
            columns = F.normalize(self.full, dim=1)
            steps = torch.einsum("bthk,hkn->bthn", parts, columns) * self.scale[:, None]
            steps = steps.flatten(-2)
        else:
            steps = self.up(self.down(normed))
        back = self.convolution.kernel_size[0] - 1
        steps = self.convolution(F.pad(steps.mT, (back, 0))).mT  # sees no later token
        steps = split_heads(steps, self.n_heads)
        if self.bias is not None:
            steps = steps + self.bias.exp()
        if self.gate is not None:
            steps = steps * self.gate(normed).sigmoid().mT[..., None]
        return steps


@SCHEMES.add("selective_rope", SelectiveRopeConfig)
class SelectiveRope(Position):
    """Rotation by angles that depend on the input."""

    title = "Selective RoPE"
    family = "rotation"
    idea = "rotary whose angles are sums of steps that the tokens decide"
    source = "Movahedi et al. 2026"
    by_pair: Tensor
    claim = "better language modelling and recall than rotary; nothing on longer texts"

    def __init__(self, config: SelectiveRopeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.layers = nn.ModuleList(Steps(config, sizes) for _ in range(sizes.n_layers))
        pairs = torch.arange(0, sizes.head_dim, 2, dtype=torch.float32)
        by_pair = config.largest / config.theta ** (pairs / sizes.head_dim)
        self.register_buffer("by_pair", by_pair, persistent=False)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Turn both by the sums of this layer's steps, added in float64."""
        sums = self.layers[layer](x).double().cumsum(-2)  # (B, H, T, K/2)
        angles = sums * self.by_pair
        wide = torch.promote_types(q.dtype, torch.float32)
        rotations = torch.complex(angles.cos().to(wide), angles.sin().to(wide))
        return rotate(q, rotations), rotate(k, rotations), NO_BIAS
