"""Rotary position embeddings: queries and keys rotated by an angle that grows with position.

Su et al., RoFormer (2021), in the form that the ALiBi paper used (section 2.2, footnote 5):
neighbouring coordinates (0, 1), (2, 3), ... form the pairs, in every layer, over the whole head,
and values are not rotated. Logits then depend on positions through i - j alone.

`scaling` changes the frequencies, for longer texts; each is a function of the settings, of
train_length, and of the length of the text at hand alone:

* linear: divided by the factor (Chen et al. 2023, arXiv 2306.15595).
* ntk: a larger base, theta x factor^(K / (K - 2)), which divides the lowest frequency by the factor
  and leaves the highest (bloc97 2023; Peng et al. 2023, section 3.1).
* dynamic: the base of ntk with factor x length / train_length - (factor - 1) instead of the factor,
  where a text is longer than train_length (emozilla 2023; jquesnelle/yarn, transformers).
* yarn: low frequencies divided by the factor, high ones left, those between in part; rotated
  coordinates times 0.1 ln(factor) + 1 (Peng et al. 2023, arXiv 2309.00071). The ramp is linear in
  the number of the pair, as in its code. At train_length of some hundreds hardly any pair makes
  beta_fast turns, so the betas mean less than at thousands.
* llama3: by wavelength in relation to train_length (Llama team 2024, arXiv 2407.21783).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.attention.bias import NO_BIAS, Bias
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting

SCALINGS = ("none", "linear", "ntk", "dynamic", "yarn", "llama3")
OF_SCALING = {
    "yarn": ("beta_fast", "beta_slow", "truncate", "attention_factor"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}


@dataclass
class RotaryConfig(PositionConfig):
    """Settings of rotary embeddings."""

    theta: float = setting(10000.0, "base of the wavelengths", above=1)
    scaling: str = setting("none", "how frequencies are changed", choices=SCALINGS)
    factor: float = setting(1.0, "of the scaling: how much longer texts get", at_least=1)
    beta_fast: float = setting(32.0, "yarn: turns from which a pair is left as it is", above=0)
    beta_slow: float = setting(1.0, "yarn: turns below which a pair is divided", above=0)
    truncate: bool = setting(True, "yarn: the ramp begins and ends at whole pairs")
    attention_factor: float | None = setting(
        None, "yarn: factor on queries and keys; null: 0.1 ln(factor) + 1", above=0
    )
    low_freq_factor: float = setting(
        1.0, "llama3: pairs of fewer turns in train_length are divided", above=0
    )
    high_freq_factor: float = setting(
        4.0, "llama3: pairs of more turns in train_length are left", above=0
    )

    def problems(self, sizes: Sizes) -> list[str]:
        """Coordinates are rotated in pairs, and every setting has an effect."""
        problems = super().problems(sizes)
        head_dim = sizes.d_model / sizes.n_heads
        if head_dim.is_integer() and head_dim % 2:
            problems.append(
                f"model.d_model, model.n_heads: given {sizes.d_model} and {sizes.n_heads}, so "
                f"heads of {head_dim:.0f}, but position=rotary needs an even head size"
            )
        if self.scaling in ("ntk", "dynamic") and head_dim == 2:
            problems.append(
                f"position.scaling: given {self.scaling}, but it needs heads of more than 2"
            )
        if self.factor != 1 and self.scaling == "none":
            problems.append(
                f"position.factor: given {self.factor:g}, but position.scaling is none; allowed: "
                + ", ".join(SCALINGS[1:])
            )
        if self.factor == 1 and self.scaling in ("linear", "ntk", "yarn", "llama3"):
            problems.append(
                f"position.factor: given 1, which leaves position.scaling={self.scaling} without "
                "effect; give how much longer texts get"
            )
        for scaling, names in OF_SCALING.items():
            default = RotaryConfig.__dataclass_fields__
            set_ones = [n for n in names if getattr(self, n) != default[n].default]
            if set_ones and self.scaling != scaling:
                problems.append(
                    f"position.{set_ones[0]}: given {getattr(self, set_ones[0])}, but only "
                    f"position.scaling={scaling} has it; position.scaling is {self.scaling}"
                )
        if self.beta_slow >= self.beta_fast:
            problems.append(
                f"position.beta_slow: given {self.beta_slow:g}, but it must be below "
                f"position.beta_fast = {self.beta_fast:g}"
            )
        if self.low_freq_factor > self.high_freq_factor:
            problems.append(
                f"position.low_freq_factor: given {self.low_freq_factor:g}, but it must be at most "
                f"position.high_freq_factor = {self.high_freq_factor:g}"
            )
        return problems


@SCHEMES.add("rotary", RotaryConfig)
class Rotary(Position):
    """Rotation of queries and keys."""

    config: RotaryConfig
    title = "Rotary"
    family = "rotation"
    rank = 0
    idea = "queries and keys rotated by their position, in every layer"
    source = "Su et al. 2021"
    claim = "none; perplexity rises beyond the training length (Press et al. 2022)"

    def __init__(self, config: RotaryConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.head_dim = sizes.head_dim

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Any."""
        return True

    @property
    def prefix_consistent(self) -> bool:
        """Dynamic scaling depends on the length of the text."""
        return self.config.scaling != "dynamic"

    @property
    def attention_factor(self) -> float:
        """What rotated queries and keys are multiplied by."""
        config = self.config
        if config.scaling != "yarn":
            return 1.0
        if config.attention_factor is not None:
            return config.attention_factor
        return 0.1 * math.log(config.factor) + 1

    def frequencies(self, length: int, device: torch.device | None = None) -> Tensor:
        """The angle of each pair by which a position turns it. (K/2,), float32.

        length: of the text at hand.
        """
        theta, width = self.config.theta, self.head_dim
        if self.config.scaling == "none":
            pairs = torch.arange(0, width, 2, device=device, dtype=torch.float32)
            plain: Tensor = theta ** (-pairs / width)
            return plain
        pairs = torch.arange(0, width, 2, device=device, dtype=torch.float64)
        scaled: Tensor = self._scaled(theta, pairs / width, length)
        return scaled.float()

    def _scaled(self, theta: float, exponents: Tensor, length: int) -> Tensor:
        config, plain, trained = self.config, theta**-exponents, self.train_length
        if config.scaling == "linear":
            return plain / config.factor
        if config.scaling in ("ntk", "dynamic"):
            stretch = config.factor
            if config.scaling == "dynamic":
                stretch = max(1.0, config.factor * length / trained - (config.factor - 1))
            base = theta * stretch ** (self.head_dim / (self.head_dim - 2))
            wider: Tensor = base**-exponents
            return wider
        if config.scaling == "yarn":
            return plain * (1 - self._yarn_ramp(exponents) * (1 - 1 / config.factor))
        turns = trained * plain / (2 * math.pi)
        low, high = config.low_freq_factor, config.high_freq_factor
        kept = (turns >= high).double()
        if high > low:
            kept = ((turns - low) / (high - low)).clamp(0, 1)
        return plain * (kept + (1 - kept) / config.factor)

    def _yarn_ramp(self, exponents: Tensor) -> Tensor:
        """How much of each pair's frequency is divided, from 0 to 1."""
        config, width = self.config, self.head_dim

        def pair_of(turns: float) -> float:
            """The pair, not a whole number, that makes so many turns in train_length."""
            wavelength = self.train_length / (turns * 2 * math.pi)
            return width * math.log(wavelength) / (2 * math.log(config.theta))

        low, high = pair_of(config.beta_fast), pair_of(config.beta_slow)
        if config.truncate:
            low, high = math.floor(low), math.ceil(high)
        # width - 1 as in the authors' code, though there are only half as many pairs.
        low, high = max(low, 0), min(high, width - 1)
        high = high + 0.001 if low == high else high
        return ((exponents * width / 2 - low) / (high - low)).clamp(0, 1)

    def begin(self, positions: Tensor) -> Tensor:
        """The rotation of each position and pair: (T, K/2) or (B, 1, T, K/2), complex."""
        frequencies = self.frequencies(positions.shape[-1], positions.device)
        angles = positions[..., None].float() * frequencies
        factors = torch.full_like(angles, self.attention_factor)
        rotations = torch.polar(factors, angles)
        return rotations[:, None] if rotations.ndim == 3 else rotations

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Rotate each pair of coordinates, in float32 whatever the model's dtype."""

        def rotated(x: Tensor) -> Tensor:
            pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * begun).flatten(-2).to(x.dtype)

        return rotated(q), rotated(k), NO_BIAS
