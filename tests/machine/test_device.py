import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alibi_lm.errors import UserError
from alibi_lm.machine.device import resolve_device
from alibi_lm.machine.memory import is_out_of_memory

# Takes memory without touching it: harmless, and the system alone would promise it for ever.
GREEDY = """
import torch
from alibi_lm.machine.memory import fail_when_memory_runs_out, is_out_of_memory
fail_when_memory_runs_out()
held = []
try:
    while len(held) < 4096:
        held.append(torch.empty(2**30, dtype=torch.uint8))
except RuntimeError as error:
    assert is_out_of_memory(error), error
    print(len(held))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set on Linux alone")
def test_memory_beyond_the_machines_is_an_error_not_a_kill() -> None:
    found = subprocess.run(
        [sys.executable, "-c", GREEDY], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = int(next(line for line in lines if line.startswith("MemTotal")).split()[1])  # KiB
    assert int(found.stdout) <= total / 2**20 + 1


def test_what_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_gpu_that_is_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device: given cuda, but torch sees no GPU"):
            resolve_device("cuda")
    assert resolve_device("cpu").type == "cpu"
