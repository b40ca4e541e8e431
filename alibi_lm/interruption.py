"""Being asked to stop: SIGINT (Ctrl-C) and SIGTERM (schedulers, `docker stop`).

Work stops at once where nothing can be half done, since files are written under other names and
renamed; training puts it off to the end of a pass, to save the state of its last whole step. A
second signal ends the process on the spot. The exit status is 128 + the signal's number.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. No `except Exception` on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that says so."""
        return 128 + self.number


_asked: int | None = None
_deferred = False


def listen() -> None:
    """Handle the signals from now on, except those that the process's host handles itself.

    (submitit, for one, has its own answer to SIGTERM.)
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked is not None:
        os._exit(128 + number)
    _asked = number
    if not _deferred:
        raise Interrupted(number)


@contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Put a stop off while the block runs; it gets a function that gives the signal, if any.

    If there was one, the block's end raises Interrupted.
    """
    global _deferred
    _deferred = True
    try:
        yield lambda: _asked
    finally:
        _deferred = False
    if _asked is not None:
        raise Interrupted(_asked)
