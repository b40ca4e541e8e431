"""The positional schemes by name.

Each has a file in this folder, which registers it; base.py says what a scheme is. Those of the
user's own are registered last (see machine/plugins.py).
"""

import importlib
import pkgutil

from alibi_lm.machine.plugins import load_plugins
from alibi_lm.positions.base import SCHEMES, Draws, Position, PositionConfig, Sizes

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
load_plugins()

__all__ = ["SCHEMES", "Draws", "Position", "PositionConfig", "Sizes"]
