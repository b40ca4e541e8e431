"""Who imports whom: the rules of CONTRIBUTING, one test each, on the source as it stands."""

import ast
import functools
import re
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "alibi_lm"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def imports(path: Path) -> set[str]:
    """Every module that a file imports, within functions and for types alone, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & FILES.keys()) or {node.module}
    return found


def box(module: str) -> str:
    """The file or folder at the top of the package that a module is in."""
    return ".".join(module.split(".")[:2])


def within(part: str) -> list[str]:
    return [name for name in FILES if name == part or name.startswith(f"{part}.")]


def users_of(wanted: Callable[[str], bool], parts: list[str]) -> list[str]:
    return [name for name in parts if any(map(wanted, imports(FILES[name])))]


def starts(*prefixes: str) -> Callable[[str], bool]:
    return lambda name: any(name == p or name.startswith(f"{p}.") for p in prefixes)


def test_nothing_imports_scripts() -> None:
    assert users_of(starts("scripts"), list(FILES)) == []


@pytest.mark.parametrize("of", [lambda name: name, box], ids=["files", "boxes"])
def test_no_circle(of: Callable[[str], str]) -> None:
    graph: dict[str, set[str]] = {}
    for name, path in FILES.items():
        known = {of(other) for other in imports(path) if other in FILES}
        graph.setdefault(of(name), set()).update(known - {of(name)})
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert set(order) >= set(graph)


def test_at_most_17_boxes() -> None:
    boxes = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert len(boxes) <= 17, sorted(boxes)


@pytest.mark.parametrize("part", ["training", "evaluation", "model", "data", "positions"])
def test_parts_know_no_run_folder(part: str) -> None:
    forbidden = starts("alibi_lm.runs", "alibi_lm.config", "alibi_lm.cli", "alibi_lm.report")
    assert users_of(forbidden, within(f"alibi_lm.{part}")) == []


def test_evaluation_knows_no_decoder() -> None:
    assert users_of(starts("alibi_lm.model.decoder"), within("alibi_lm.evaluation")) == []


def test_report_reads_rows_and_nothing_else() -> None:
    allowed = starts(
        "alibi_lm.report",
        "alibi_lm.evaluation",
        "alibi_lm.benchmark.rows",
        "alibi_lm.machine.files",
        "alibi_lm.machine.installation",
        "alibi_lm.errors",
        "alibi_lm.settings",
    )
    ours = starts("alibi_lm")
    assert users_of(lambda n: ours(n) and not allowed(n), within("alibi_lm.report")) == []


def test_machine_is_plumbing() -> None:
    allowed, ours = starts("alibi_lm.machine", "alibi_lm.errors"), starts("alibi_lm")
    assert users_of(lambda n: ours(n) and not allowed(n), within("alibi_lm.machine")) == []


def test_nobody_but_positions_knows_a_scheme() -> None:
    """Defaults of settings aside: config.py's, and that of the authors' checkpoints."""
    schemes = {f"alibi_lm.positions.{path.stem}" for path in (PACKAGE / "positions").glob("*.py")}
    for name in ("base", "spec", "rope_parameters", "__init__"):
        schemes.discard(f"alibi_lm.positions.{name}")
    outside = [name for name in FILES if not name.startswith("alibi_lm.positions")]
    knowing = users_of(starts(*schemes), outside)
    assert set(knowing) == {"alibi_lm.config", "alibi_lm.interop.fairseq"}


def test_wandb_is_imported_where_it_is_needed() -> None:
    assert users_of(starts("wandb"), list(FILES)) == ["alibi_lm.tracking"]
    assert users_of(starts("wandb_workspaces"), list(FILES)) == ["alibi_lm.runs.dashboard"]


def test_the_image_has_the_data_that_a_report_reads() -> None:
    """Rows of experiments/ are no part of it; what the package itself reads is."""
    source = (PACKAGE / "report").rglob("*.py")
    read = {
        found for path in source for found in re.findall(r'EXPERIMENTS / "(\w+)"', path.read_text())
    }
    assert read == {"paper", "published"}
    for folder in read:
        assert (
            f"COPY experiments/{folder} experiments/{folder}" in (ROOT / "Dockerfile").read_text()
        )
        assert f"!experiments/{folder}\n" in (ROOT / ".dockerignore").read_text()
