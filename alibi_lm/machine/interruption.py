"""Being asked to stop by a signal.

SIGINT comes of Ctrl-C, SIGTERM from schedulers and `docker stop`, SIGHUP when the terminal is gone,
SIGUSR1 from `sbatch --signal=USR1@60`; a host of the process may have signals of its own.

Work stops at once where nothing can be half done, since files are written under other names and
renamed; training puts it off to the end of a pass, to save the state of its last whole update. A
second signal ends the process on the spot. The exit status is 128 + the signal's number.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# What a host that runs us may have a handler for: submitit, say, queues a Slurm job again by one.
HOST_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. No `except Exception` on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that says so."""
        return 128 + self.number


ECHO = 0.5  # seconds in which the same signal is the same request: launchers pass it on as well

_asked = False
_last: dict[int, float] = {}  # when each signal came


def listen() -> None:
    """Handle the signals from now on, except those that the process's host handles itself."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked
    if _is_echo(number):
        return
    if _asked:
        os._exit(128 + number)
    _asked = True
    raise Interrupted(number)


def _is_echo(number: int) -> bool:
    now = time.monotonic()
    before = _last.get(number)
    if before is not None and now - before < ECHO:
        return True
    _last[number] = now
    return False


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Put a stop off while the block runs; it gets a function that gives the signal, if any.

    Whatever handles that signal, ours or the host's, is called at the block's end.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if not _is_echo(number) and asked:
            os._exit(128 + number)
        asked.append(number)

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in {*SIGNALS, *HOST_SIGNALS}:
            handler = signal.getsignal(number)
            if handler is _stop or (number in HOST_SIGNALS and callable(handler)):
                handlers[number] = handler
                signal.signal(number, note)
    stopped: Interrupted | None = None
    try:
        yield lambda: asked[0] if asked else None
    except Interrupted as stop:  # an error, in contrast, goes its own way
        stopped = stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if asked:
        _last.clear()
        handler = handlers[signal.Signals(asked[0])]
        assert callable(handler)
        handler(asked[0], None)
    if stopped is not None:  # another of several processes was asked
        raise stopped
