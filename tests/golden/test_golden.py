"""Training and evaluation give the numbers that they gave when the golden file was written.

A change that should not move a number leaves losses.json alone. One that does move a number writes
it anew (`python tests/golden/runs.py`) and says so in CHANGELOG.md.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from golden.runs import FILE, compute, machine, names, write_text

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
# With the same torch and vector units the sums are added in the same order. Elsewhere a BLAS may
# add in another one, and twenty updates spread that over the weights.
TOLERANCE = 1e-6 if GOLDEN["machine"] == machine() else 1e-4
TOLERANCE_16_BIT = 1e-6 if GOLDEN["machine"] == machine() else 2e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden")
    write_text(path)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_run_is_there() -> None:
    """But for schemes that were added since the file was written."""
    assert list(GOLDEN["runs"]) == [name for name in names() if name in GOLDEN["runs"]]
    assert {name.split()[0] for name in GOLDEN["runs"]} >= {"alibi", "fox", "cope", "layered"}
    assert len(GOLDEN["runs"]) >= 53


@pytest.mark.parametrize("name", GOLDEN["runs"])
def test_numbers(name: str, folder: Path) -> None:
    wanted, found = GOLDEN["runs"][name], compute(name, folder)
    rel = TOLERANCE_16_BIT if name.endswith("float16") else TOLERANCE
    assert found["losses"] == pytest.approx(wanted["losses"], rel=rel)
    assert found["grad_norms"] == pytest.approx(wanted["grad_norms"], rel=10 * rel)
    assert found["results"].keys() == wanted["results"].keys()
    for label, row in wanted["results"].items():
        assert found["results"][label] == pytest.approx(row, rel=10 * rel), label
