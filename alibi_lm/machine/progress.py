"""Progress bars (live in a terminal, a line now and then in a log file) and lines for users.

With several processes, only rank 0 prints.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from alibi_lm.machine import processes

_logs: list[Path] = []
_labels: list[str] = []
_wholes: list["Whole"] = []


class Bar(tqdm):  # type: ignore[misc]
    """A bar that also says how long the whole work still takes that it is a part of."""

    weight = 0.0  # work for each that it counts
    what = ""

    def update(self, n: float = 1) -> None:
        """Count so many more."""
        for whole in _wholes if self.weight else ():
            whole.done += self.weight * n
            self.set_description_str(f"{self.what} ({whole})", refresh=False)
        super().update(n)


def bar(*, total: float, desc: str, unit: str, initial: float = 0, weight: float = 0) -> Any:
    """A tqdm bar on stderr that counts `unit`s, scaled (k, M).

    weight: work for each of them, of what `whole` counts.
    """
    shown = Bar(
        total=total,
        desc="".join(_labels) + desc,
        unit=unit,
        initial=initial,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        disable=not processes.is_rank_zero(),
    )
    shown.what, shown.weight = "".join(_labels) + desc, weight
    return shown


@dataclass
class Whole:
    """Work that is shown by many bars, one after the other."""

    total: float
    what: str
    done: float = 0.0
    skipped: float = 0.0  # of that, what was there before
    started: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        """How long it still takes, at the average speed so far."""
        if self.done <= self.skipped:
            return self.what
        pace = (time.monotonic() - self.started) / (self.done - self.skipped)
        left = pace * max(0.0, self.total - self.done)
        return f"{self.what}: {tqdm.format_interval(left)} left"


@contextlib.contextmanager
def whole(total: float, what: str) -> Iterator[None]:
    """Say in the bars of the block that have a weight how long all of it still takes."""
    _wholes.append(Whole(total, what))
    try:
        yield
    finally:
        _wholes.pop()


def reach(work: float) -> None:
    """Count all the work up to there as done, whoever did it and however much it was."""
    for whole in _wholes:
        whole.skipped += max(0.0, work - whole.done)
        whole.done = max(whole.done, work)


@contextlib.contextmanager
def labelled(label: str) -> Iterator[None]:
    """Put a label before every line and bar while the block runs."""
    _labels.append(label)
    try:
        yield
    finally:
        _labels.remove(label)


def say(message: str) -> None:
    """Print a line on standard output, without breaking a bar, and write it to the logs."""
    message = "".join(_labels) + message
    if processes.is_rank_zero():
        try:
            tqdm.write(message, file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read along has left (`| head`); the work goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _write(message)


@contextlib.contextmanager
def logged(file: Path) -> Iterator[None]:
    """Write what is printed while the block runs to a file too, and any exception that ends it."""
    _logs.append(file)
    try:
        yield
    except Exception as error:
        _write("".join(traceback.format_exception(error)).rstrip())
        raise
    except BaseException as stop:  # a signal, or the host of the process
        _write(f"stopped: {stop!r}")
        raise
    finally:
        _logs.remove(file)


def _write(message: str) -> None:
    for file in _logs if processes.is_rank_zero() else ():
        # What cannot be logged, e.g. on a full disk, is still printed.
        with contextlib.suppress(OSError), file.open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}\n")
