"""The positional schemes by name. Each file of this folder registers its own (see base.py)."""

import importlib
import pkgutil

from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["SCHEMES", "Position", "PositionConfig", "Sizes"]
