"""The positional schemes by name. A new scheme is one file here and one line below."""

from typing import TYPE_CHECKING

from alibi_lm.positions.alibi import Alibi, AlibiConfig
from alibi_lm.positions.base import Position, PositionConfig
from alibi_lm.positions.rotary import Rotary, RotaryConfig
from alibi_lm.positions.sinusoidal import Sinusoidal, SinusoidalConfig
from alibi_lm.positions.t5 import T5Bias, T5Config

if TYPE_CHECKING:
    from alibi_lm.config import ModelConfig

SCHEMES: dict[str, tuple[type[PositionConfig], type[Position]]] = {
    "none": (PositionConfig, Position),
    "sinusoidal": (SinusoidalConfig, Sinusoidal),
    "rotary": (RotaryConfig, Rotary),
    "t5": (T5Config, T5Bias),
    "alibi": (AlibiConfig, Alibi),
}


def build_position(config: PositionConfig, model: "ModelConfig") -> Position:
    """The scheme that the configuration names, for a model of these sizes."""
    return SCHEMES[config.name][1](config, model)


__all__ = ["SCHEMES", "Position", "PositionConfig", "build_position"]
