"""Signals, to real processes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Fork, ForkedScript
from samples import outcome

from alibi_lm.runs.folder import load_run


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_asked_to_stop_a_training_keeps_its_state_and_goes_on_later(
    fork: Fork, on_text: list[str], tmp_path: Path, number: int, status: int
) -> None:
    steps = [a for a in on_text if not a.startswith("optim.steps")] + ["optim.steps=300"]

    def start(*more: str) -> ForkedScript:
        return fork.script("train", *steps, "output=out", *more, folder=tmp_path)

    stopped = start("run=stopped")
    folder = tmp_path / "out" / "runs" / "stopped"
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(number)
    _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == status
    assert errors.splitlines()[-1] == (
        "interrupted: finished work is kept; the same command continues from it"
    )
    assert "Traceback" not in errors
    assert len(list((folder / "checkpoints").iterdir())) == 1

    if number == signal.SIGHUP:
        again = start("run=stopped")
        said, errors = again.communicate(timeout=60)
        assert again.returncode == 0, errors
        assert "continuing after step" in said
        assert start("run=whole").wait(60) == 0
        runs = (load_run(tmp_path / "out" / "runs" / name) for name in ("stopped", "whole"))
        with_stop, without = map(outcome, runs)
        assert with_stop == without


PROGRAM = """
import os, signal, sys, time
from alibi_lm.machine.interruption import deferred, listen
listen()
def of_the_host(number, frame):
    print("the host's", flush=True)
    sys.exit(7)
signal.signal(signal.SIGUSR2, of_the_host)
with deferred() as asked:
    for number in SIGNALS:
        os.kill(os.getpid(), number)
        time.sleep(PAUSE)
        print("still here", asked(), flush=True)
print("not reached")
"""


@pytest.mark.parametrize(
    ("signals", "pause", "said", "status"),
    [
        ("[2]", 0.6, "still here 2\n", 1),  # the block goes on; Interrupted at its end
        ("[2, 2]", 0.6, "still here 2\n", 130),
        ("[2, 2]", 0.1, "still here 2\nstill here 2\n", 1),  # launchers pass it on as well,
        ("[15, 2]", 0.1, "still here 15\n", 130),
        ("[12]", 0.6, "still here 12\nthe host's\n", 7),
    ],
)
def test_a_second_signal_ends_the_process_at_once(
    signals: str, pause: float, said: str, status: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("SIGNALS", signals).replace("PAUSE", str(pause))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == (said, status)


def test_an_error_while_the_state_is_saved_is_not_taken_for_a_stop() -> None:
    program = """
import os, signal
from alibi_lm.machine.interruption import Interrupted, deferred, listen
listen()
with deferred() as asked:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        raise Interrupted(asked())
    except Interrupted:
        raise OSError("disk full")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.endswith("OSError: disk full\n")


def test_a_host_that_handles_a_signal_keeps_it() -> None:
    program = """
import signal
from alibi_lm.machine.interruption import listen
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listen()
print(signal.getsignal(signal.SIGTERM) == signal.SIG_IGN)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "True\n"
