"""Progress bars: live in a terminal, a line now and then in a log file."""

import sys
from typing import Any

from tqdm import tqdm


def bar(*, total: float, desc: str, unit: str) -> Any:
    """A tqdm bar on stderr that counts `unit`s, scaled (k, M)."""
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
    )


def say(message: str) -> None:
    """A line on standard output that does not tear a bar in two."""
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()
