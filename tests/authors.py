"""Numbers that the authors' own code computed, and what compares ours with them.

tests/reference/NAME.safetensors holds inputs and outputs; its metadata says which code, which
commit, which settings.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from alibi_lm.attention import attend
from alibi_lm.attention.reference import logits_of
from alibi_lm.positions import SCHEMES, Position, Sizes

REFERENCE = Path(__file__).parent / "reference"
AGREEMENT = REFERENCE / "agreement.csv"
Compare = Callable[..., None]
DTYPES = {torch.float64: 1e-9, torch.float32: 1e-5}
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


class Golden(dict[str, Tensor]):
    """The tensors of a file, in one dtype."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        super().__init__(
            (key, x.to(dtype) if x.is_floating_point() else x) for key, x in tensors.items()
        )


def scheme(name: str, sizes: Sizes, dtype: torch.dtype, **settings: Any) -> Position:
    config = SCHEMES.settings[name](**settings)
    assert config.problems(sizes) == []
    made: Position = SCHEMES.build(config, sizes).to(dtype)
    return made


def causal(matrix: Tensor) -> Tensor:
    """With -inf above the diagonal."""
    future = torch.ones(matrix.shape[-2:], dtype=torch.bool).triu(1)
    return matrix.masked_fill(future, -math.inf)


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def at_length(made: Position, length: int) -> Any:
    return made.begin(torch.arange(length))


def backends(dtype: torch.dtype) -> tuple[str, ...]:
    return ("reference", "scored") if dtype == torch.float64 else ("auto", "scored")


def added_by(made: Position, length: int, dtype: torch.dtype) -> Tensor:
    """What a scheme adds to logits of zero, -inf for the future. (H, T, T)."""
    zeros = torch.zeros(1, 4, length, 8, dtype=dtype)
    _, _, bias = made(0, zeros.transpose(1, 2).flatten(-2), zeros, zeros, at_length(made, length))
    return causal(logits_of(zeros, zeros, zeros, bias)[0])


def weights_of(made: Position, q: Tensor, k: Tensor) -> Tensor:
    """The attention that a scheme gives to each key. (H, T, T)."""
    q, k, bias = made(0, q, q, k, at_length(made, q.shape[2]))
    identity = torch.eye(q.shape[2], dtype=q.dtype).expand(*q.shape[:2], -1, -1)
    scaled = q * (q.shape[2] / q.shape[-1]) ** 0.5  # the scale is that of v's width
    return attend(scaled, k, identity, bias, "reference").out[0]


def write_agreement(largest: dict[tuple[str, ...], float]) -> None:
    """The table of golden files by scheme: what code computed them, and the largest difference.

    largest: by scheme and files. Differences are rounded up to two digits.
    """
    with AGREEMENT.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["scheme", "files", "computed by", "source", "difference"])
        for (made, *names), difference in sorted(largest.items()):
            with safe_open(REFERENCE / f"{names[0]}.safetensors", "pt") as golden:
                source = golden.metadata()["source"]
            table.writerow(
                [made, " ".join(names), computed_by(source), source, f"{difference:.1e}"]
            )


def computed_by(source: str) -> str:
    """Whose code computed a file, by what its metadata say of its source."""
    if any(words in source for words in ("formula only", "no public code", "formulas in float64")):
        return "formula alone"
    if "implementation" in source:
        return "reimplementation"
    return "authors' code"


@pytest.fixture
def compare(record_property: Callable[[str, object], None], request: Any) -> Compare:
    """Assert that two tensors agree; note by how much of the largest, or of 1.

    The test is marked golden(scheme, files): their table is tests/reference/agreement.csv, which
    `pytest tests/positions --write-agreement` writes. It must be true to a factor of 10, which is
    what another machine's rounding may change.
    """
    marker = request.node.get_closest_marker("golden")
    writing = request.config.getoption("--write-agreement")
    of, known = marker.args, {} if writing else _known()

    def check(got: Tensor, wanted: Tensor, tolerance: float) -> None:
        assert got.shape == wanted.shape
        difference = (got.double() - wanted.double()).abs().nan_to_num(0.0).max().item()
        size = wanted.double().nan_to_num(0.0, 0.0, 0.0).abs().max().clamp(min=1).item()
        record_property("difference", (of, difference / size))
        assert difference <= tolerance, (difference, wanted.abs().max().item())
        if not writing:
            assert difference / size <= max(10 * known[of], 1e-6), (difference / size, known[of])

    return check


def _known() -> dict[tuple[str, ...], float]:
    with AGREEMENT.open(encoding="utf-8", newline="") as file:
        return {
            (row["scheme"], *row["files"].split()): float(row["difference"])
            for row in csv.DictReader(file)
        }


def pytest_addoption(parser: Any) -> None:
    """How the table of agreement with authors' numbers is written."""
    parser.addoption("--write-agreement", action="store_true", help=f"write {AGREEMENT.name}")


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """The largest difference from the authors of each scheme that was seen."""
    largest: dict[tuple[str, ...], float] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "difference":
                of, difference = tuple(value[0]), value[1]
                largest[of] = max(largest.get(of, 0.0), difference)
    if largest:
        terminalreporter.section("largest difference from the authors' numbers")
    for of, difference in sorted(largest.items()):
        terminalreporter.write_line(f"{difference:9.1e}  {' '.join(of)}")
    if config.getoption("--write-agreement"):
        write_agreement(largest)
