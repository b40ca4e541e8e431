"""Temperatures: a factor on each query, so that attention to more keys stays as sharp.

The query of place i, counted from 1, is multiplied by

* logn: log i to the base train_length, at least 1 (Su 2021, as Qwen's code has it).
* logn_unclipped: the same without "at least 1", so less within the training length and 0 for the
  first token (BiPE's code): to be trained with.
* ssmax: s ln i, s learned for each head and layer, 0.43 at first (Nakanishi 2025, arXiv
  2501.19399); ssmax_bias: s ln i + b, b learned and 1 at first; ssmax_fixed: s is not learned.
* llama4: 1 + s ln(floor(i / floor) + 1), s = 0.1 and floor = 8192 (Meta's code of Llama 4).

It multiplies q . k and not what a scheme adds to that.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alibi_lm.settings import setting

LOGN, SSMAX = ("logn", "logn_unclipped"), ("ssmax", "ssmax_bias", "ssmax_fixed")
TEMPERATURES = ("none", *LOGN, *SSMAX, "llama4")
SCALE_AT_FIRST = {"llama4": 0.1} | dict.fromkeys(SSMAX, 0.43)


@dataclass
class TemperatureConfig:
    """Settings of the factor on queries."""

    temperature: str = setting(
        "none", "any scheme: a factor on queries that grows with their place", choices=TEMPERATURES
    )
    temperature_scale: float | None = setting(
        None, "ssmax: at first, 0.43 by default; llama4: 0.1 by default", above=0
    )
    temperature_floor: int = setting(
        8192, "llama4: places from which the factor grows, in steps of as many", at_least=1
    )

    def temperature_problems(self, train_length: int) -> list[str]:
        """A line for each of these settings that has no meaning or no effect."""
        if self.temperature in LOGN and train_length == 1:
            return ["position.temperature: has no meaning at train_length = 1, whose log is 0"]
        if self.temperature_scale is not None and self.temperature not in SCALE_AT_FIRST:
            return [
                f"position.temperature_scale: given {self.temperature_scale:g}, but "
                f"position.temperature is {self.temperature}; allowed with: "
                + ", ".join(SCALE_AT_FIRST)
            ]
        return []


class Temperature(nn.Module):
    """The factors of the queries, in every layer."""

    def __init__(
        self, config: TemperatureConfig, n_layers: int, n_heads: int, train_length: int
    ) -> None:
        super().__init__()
        self.kind, self.floor = config.temperature, config.temperature_floor
        self.train_length = train_length
        self.scale = config.temperature_scale or SCALE_AT_FIRST.get(self.kind, 1.0)
        by_head = n_layers, n_heads
        if self.kind in ("ssmax", "ssmax_bias"):
            self.scales = nn.Parameter(torch.full(by_head, self.scale))
        if self.kind == "ssmax_bias":
            self.offsets = nn.Parameter(torch.ones(by_head))

    def forward(self, layer: int, q: Tensor) -> Tensor:
        """Queries times their factors. (B, H, T, K)."""
        by_place = self.by_place(q.shape[2], q.device)
        if self.kind in ("ssmax", "ssmax_bias"):
            by_place = by_place * self.scales[layer][:, None, None]
        if self.kind == "ssmax_bias":
            by_place = by_place + self.offsets[layer][:, None, None]
        return q * by_place.to(torch.promote_types(q.dtype, torch.float32))

    def by_place(self, length: int, device: torch.device | None = None) -> Tensor:
        """The factor of each place, but for what is learned. (T, 1), float64."""
        places = torch.arange(1, length + 1, device=device, dtype=torch.float64)
        if self.kind == "llama4":
            factor = 1 + self.scale * torch.log1p((places / self.floor).floor())
        elif self.kind in LOGN:
            factor = places.log() / torch.tensor(float(self.train_length)).double().log()
        else:
            factor = places.log() * (self.scale if self.kind == "ssmax_fixed" else 1.0)
        if self.kind == "logn":
            factor = factor.clamp(min=1)
        return factor[:, None]
