"""Changes of rotary frequencies, for longer texts: linear, NTK, dynamic, YaRN, Llama 3, LongRoPE.

Each is a function of the settings, of train_length, and of the length of the text at hand alone.
(original_length, if it is set, stands for train_length: of weights that were trained on after
another scheme's training at that length, or that were published with a scaling.)
Frequency m of a head of K rotated coordinates is theta^(-2m / K); the exponents 2m / K are given.

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
* longrope: each divided by a number of its own, from one list up to train_length and from another
  beyond it; rotated coordinates times sqrt(1 + ln(factor) / ln(train_length)) (Ding et al. 2024,
  arXiv 2402.13753, and its code). longrope_dynamic: the long list in part, more for longer texts.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from alibi_lm.positions.base import PositionConfig
from alibi_lm.settings import default_of, setting

SCALINGS = (
    *("none", "linear", "ntk", "dynamic", "yarn", "llama3"),
    *("longrope", "longrope_dynamic"),
)
BY_LENGTH = ("dynamic", "longrope", "longrope_dynamic")  # those that look at the text's length
WITHOUT_FACTOR = ("none", "dynamic")
OF_SCALING = {  # settings that only these scalings have
    ("yarn",): ("beta_fast", "beta_slow", "truncate"),
    ("yarn", "longrope", "longrope_dynamic"): ("attention_factor",),
    ("llama3",): ("low_freq_factor", "high_freq_factor"),
    ("longrope", "longrope_dynamic"): ("long_factors",),
    ("longrope",): ("short_factors",),
    ("dynamic", "yarn", "llama3", "longrope", "longrope_dynamic"): ("original_length",),
}


@dataclass
class FrequencyConfig(PositionConfig):
    """Settings of frequencies; which width they are of, a scheme says."""

    theta: float = setting(10000.0, "base of the wavelengths", above=1)
    scaling: str = setting("none", "how frequencies are changed", choices=SCALINGS)
    factor: float = setting(1.0, "of the scaling: how much longer texts get", at_least=1)
    original_length: int | None = setting(
        None,
        "tokens up to which the plain frequencies were trained; null: train_length",
        at_least=1,
    )
    beta_fast: float = setting(32.0, "yarn: turns from which a pair is left as it is", above=0)
    beta_slow: float = setting(1.0, "yarn: turns below which a pair is divided", above=0)
    truncate: bool = setting(True, "yarn: the ramp begins and ends at whole pairs")
    attention_factor: float | None = setting(
        None, "yarn, longrope: factor on queries and keys; null: from the factor", above=0
    )
    low_freq_factor: float = setting(
        1.0, "llama3: pairs of fewer turns in train_length are divided", above=0
    )
    high_freq_factor: float = setting(
        4.0, "llama3: pairs of more turns in train_length are left", above=0
    )
    short_factors: list[float] = setting(
        [], "longrope: what divides each frequency up to train_length; []: nothing", above=0
    )
    long_factors: list[float] = setting([], "longrope: what divides each beyond it", above=0)

    def before(self, changes: dict[str, Any]) -> Any:
        """Another scaling starts from its own defaults, not from the settings of this one."""
        if changes.get("scaling", self.scaling) == self.scaling:
            return self
        names = {"factor", *itertools.chain(*OF_SCALING.values())}
        fields = (field for field in dataclasses.fields(self) if field.name in names)
        return replace(self, **{field.name: default_of(field) for field in fields})

    def factor_on_both(self, train_length: int) -> float:
        """What rotated queries and keys are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.scaling == "yarn":
            return 0.1 * math.log(self.factor) + 1
        if self.scaling in ("longrope", "longrope_dynamic"):
            length = self.original_length or train_length
            return math.sqrt(1 + math.log(self.factor) / math.log(length))
        return 1.0

    def scaled(self, exponents: Tensor, length: int, train_length: int) -> Tensor:
        """The frequencies for a text of that length. (K/2,), float64."""
        width, theta, factor = 2 * len(exponents), self.theta, self.factor
        train_length = self.original_length or train_length
        plain: Tensor = theta**-exponents
        if self.scaling == "linear":
            return plain / factor
        if self.scaling in ("ntk", "dynamic"):
            stretch = factor
            if self.scaling == "dynamic":
                stretch = max(1.0, factor * length / train_length - (factor - 1))
            base = theta * stretch ** (width / (width - 2))
            wider: Tensor = base**-exponents
            return wider
        if self.scaling == "yarn":
            ramp = self._yarn_ramp(exponents, train_length)
            return plain * (1 - ramp * (1 - 1 / factor))
        if self.scaling == "llama3":
            turns = train_length * plain / (2 * math.pi)
            low, high = self.low_freq_factor, self.high_freq_factor
            kept = (turns >= high).double()
            if high > low:
                kept = ((turns - low) / (high - low)).clamp(0, 1)
            return plain * (kept + (1 - kept) / factor)
        return plain / self._longrope(length, train_length).to(plain.device)

    def _yarn_ramp(self, exponents: Tensor, train_length: int) -> Tensor:
        """How much of each frequency is divided, from 0 to 1."""
        width = 2 * len(exponents)

        def pair_of(turns: float) -> float:
            """The pair, not a whole number, that makes so many turns in train_length."""
            wavelength = train_length / (turns * 2 * math.pi)
            return width * math.log(wavelength) / (2 * math.log(self.theta))

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        # width - 1 as in the authors' code, though there are only half as many pairs.
        low, high = max(low, 0), min(high, width - 1)
        high = high + 0.001 if low == high else high
        return ((exponents * width / 2 - low) / (high - low)).clamp(0, 1)

    def _longrope(self, length: int, train_length: int) -> Tensor:
        """What each frequency is divided by. (K/2,), float64."""
        long = torch.tensor(self.long_factors, dtype=torch.float64)
        if self.scaling == "longrope_dynamic":
            share = (max(length / train_length, 1.0) - 1) / (self.factor - 1)
            return 1 + (long - 1) * share
        short = torch.tensor(self.short_factors or [1.0] * len(long), dtype=torch.float64)
        return long if length > train_length else short

    def scaling_problems(self, width: int, train_length: int) -> list[str]:
        """Every setting has an effect, and factors are as many as pairs."""
        problems = []
        scaling, factor = self.scaling, self.factor
        if scaling in ("ntk", "dynamic") and width == 2:
            problems.append(f"position.scaling: given {scaling}, but it needs heads of more than 2")
        if factor != 1 and scaling == "none":
            problems.append(
                f"position.factor: given {factor:g}, but position.scaling is none; allowed: "
                + ", ".join(SCALINGS[1:])
            )
        if factor == 1 and scaling not in WITHOUT_FACTOR:
            problems.append(
                f"position.factor: given 1, which leaves position.scaling={scaling} without "
                "effect; give how much longer texts get"
            )
        for scalings, names in OF_SCALING.items():
            if scaling not in scalings:
                only = " or ".join(f"position.scaling={each}" for each in scalings)
                problems += self.idle(names, only)
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
        if scaling.startswith("longrope"):
            problems += self._longrope_problems(width // 2, train_length)
        return problems

    def _longrope_problems(self, pairs: int, train_length: int) -> list[str]:
        problems = []
        for name in ("long_factors", "short_factors"):
            given = len(getattr(self, name))
            if given != pairs and (given or name == "long_factors"):
                problems.append(
                    f"position.{name}: given {given}, but {pairs} pairs are rotated; give one "
                    "for each"
                )
        if (self.original_length or train_length) == 1 and self.attention_factor is None:
            problems.append("position.scaling: longrope has no meaning at train_length = 1")
        return problems
