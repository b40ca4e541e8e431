"""A run that an earlier version trained and evaluated is read, evaluated, reported, reproduced.

`kept/run` was written when names and identities took their present form. It is never written anew:
if a test here fails, the change orphans everybody's runs.
"""

import json
import shutil
from pathlib import Path

import pytest
from golden.runs import FILE, machine
from samples import evaluated

from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.report import gather_results, write_report
from alibi_lm.runs.folder import Run, load_run
from alibi_lm.runs.plan import plan_run
from alibi_lm.runs.reproduce import ReproduceConfig, reproduce

KEPT = Path(__file__).with_name("kept")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run, moved, with its text where it lies now."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(KEPT / "run", "runs/run")
    config = Path("runs/run/config.yaml")
    config.write_text(config.read_text().replace("TEXT", str(KEPT / "text.txt")))
    return load_run(Path("runs/run"))


def test_is_found_by_its_settings(kept: Run) -> None:
    again = plan_run(kept.config)
    assert again.identity == kept.identity
    assert again.identity.hash == "d7921b22"


def test_is_evaluated_further(kept: Run) -> None:
    rows = [result.row for result in kept.results().values()]
    assert len(rows) == 4
    wanted = EvaluationConfig(
        protocols=["nonoverlapping", "same_targets"], lengths=[16, 40, 50], targets=20
    )
    found = evaluated(kept, wanted)
    # What is there is not computed again; what is new is of the same recipe.
    assert [r.row for r in found if r.row.eval_length != 50] == rows
    assert {r.row.recipe for r in found} == {rows[0].recipe}
    assert all(r.losses() is not None for r in found)


def test_is_scored_the_same(kept: Run) -> None:
    rows = {what: result.row for what, result in kept.results().items()}
    (kept.path / "results.jsonl").unlink()
    wanted = EvaluationConfig(
        protocols=["nonoverlapping", "same_targets"], lengths=[16, 40], targets=20
    )
    for result in evaluated(kept, wanted):
        assert result.row.loss == pytest.approx(rows[result.row.measurement].loss, rel=1e-5)


def test_is_reported(kept: Run) -> None:
    paths = write_report(gather_results(["runs/run"]), Path("report"))
    assert {"report.html", "extrapolation.png", "same_targets.png"} <= {p.name for p in paths}


def test_is_reproduced(kept: Run) -> None:
    made = reproduce(ReproduceConfig("runs/run", "again"))
    assert [part.compared for part in made.comparisons][1] == "6,800 weights"
    if json.loads(FILE.read_text())["machine"] == machine():  # else in the last digits only
        assert made.comparisons[0].difference is None
