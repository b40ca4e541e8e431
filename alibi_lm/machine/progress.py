"""Progress bars: live in a terminal, a line now and then in a log file; and what is said to users.

Of several processes that work together only the first talks.
"""

import contextlib
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from alibi_lm.machine import processes

_logs: list[Path] = []


def bar(*, total: float, desc: str, unit: str, initial: float = 0) -> Any:
    """A tqdm bar on stderr that counts `unit`s, scaled (k, M)."""
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        disable=not processes.is_first(),
    )


def say(message: str) -> None:
    """A line on standard output that does not tear a bar in two, and in the logs."""
    if processes.is_first():
        tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()
    _write(message)


@contextlib.contextmanager
def logged(file: Path) -> Iterator[None]:
    """Keep what is said while the block runs in a file too, and what ends it before its time."""
    _logs.append(file)
    try:
        yield
    except Exception as error:
        _write("".join(traceback.format_exception(error)).rstrip())
        raise
    except BaseException as stop:  # asked to stop, by a signal or by what runs us
        _write(f"stopped: {stop!r}")
        raise
    finally:
        _logs.remove(file)


def _write(message: str) -> None:
    for file in _logs if processes.is_first() else ():
        # What cannot be logged, the disk being full, is still said.
        with contextlib.suppress(OSError), file.open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}\n")
