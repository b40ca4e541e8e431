"""What W&B keeps of real offline runs, read back from its files."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from offline_runs import read
from samples import evaluated

from alibi_lm.config import Config
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.runs.curve import read_curve
from alibi_lm.runs.evaluate import evaluate_run
from alibi_lm.runs.folder import Run
from alibi_lm.runs.plan import plan_evaluation, plan_run
from alibi_lm.runs.train import train_run
from alibi_lm.tracking import TrackingConfig, WandbTracker, track
from alibi_lm.training.optim import AdamwConfig

OPTIM = AdamwConfig(steps=30, warmup_steps=2, tokens_per_step=64)
LENGTH = "extrapolation/length"
PPL = "extrapolation/validation-nonoverlapping/ppl"


@pytest.fixture
def offline(small_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    return small_config("t5", optim=OPTIM, tracking=TrackingConfig(tags=["mine"]))


def work(config: Config, lengths: list[int]) -> Run:
    run = plan_run(config)
    member = plan_evaluation(run, EvaluationConfig(lengths=lengths), "cpu")
    with track(config.tracking, run.path, run.described()) as tracker:
        train_run(run, tracker)
        evaluate_run(member.run, member.wanted, tracker)
    return run


def test_curves_of_training_and_of_extrapolation(offline: Config) -> None:
    run = work(offline, [16, 40])
    found = read(run.path)
    ((told, config),) = found["runs"]
    assert (told.project, told.run_group, told.job_type) == ("alibi_lm", "out", "train")
    assert told.resume  # or `wandb sync` would put the next part in its place
    assert set(told.tags) == {"t5", "text", "L16", "mine"}
    assert told.display_name == run.path.name
    assert config["position"]["kind"] == "t5"
    assert config["n_parameters"] == run.manifest()["n_parameters"]
    assert found["axes"]["extrapolation/*"] == LENGTH
    assert found["exit"] == [0]

    curve = {line["_step"]: line["train/loss"] for line in found["history"] if "train/loss" in line}
    assert curve == {line["step"]: line["loss"] for line in read_curve(run.curve)}
    by_length = {line[LENGTH]: line[PPL] for line in found["history"] if LENGTH in line}
    assert by_length == {r.row.eval_length: r.row.ppl for r in run.results().values()}
    (table,) = [line for line in found["history"] if "results.path" in line]
    assert table["results.nrows"] == 2
    steps = [line["_step"] for line in found["history"]]
    assert steps == sorted(set(steps))


def test_a_run_that_goes_on_goes_on_with_its_curve(offline: Config) -> None:
    """Killed after step 20 was told, it takes up step 10: 20 is not told twice."""
    run = work(offline, [16])
    kept = json.loads((run.path / "tracking.json").read_text())
    before = read(run.path)
    time.sleep(1.1)  # W&B names the parts of a run by the second
    tracker = WandbTracker(offline.tracking, run.path, run.described())
    for line in read_curve(run.curve)[1:]:
        tracker.metrics(line)
    tracker.metrics({"step": kept["step"] + 5, "loss": 1.0})
    tracker.close(0)
    found = read(run.path)
    assert {told.run_id for told, _ in found["runs"]} == {kept["id"]}
    assert len(found["runs"]) == 2
    new = found["history"][len(before["history"]) :]
    assert [line["_step"] for line in new] == [kept["step"] + 5]

    # Evaluated at one more length, later: one more point on the curve.
    time.sleep(1.1)
    work(offline, [16, 30])
    history = read(run.path)["history"]
    assert [line[LENGTH] for line in history if LENGTH in line] == [16, 30]
    steps = [line["_step"] for line in history]
    assert steps == sorted(set(steps))


def test_a_result_whose_telling_a_kill_prevented_is_told_later(offline: Config) -> None:
    run = work(offline, [16])
    time.sleep(1.1)
    kept = json.loads((run.path / "tracking.json").read_text())
    assert list(kept["results"]) == [f"validation-nonoverlapping-16-{run.data.hash[:8]}"]
    evaluated(run, EvaluationConfig(lengths=[16, 40]))
    work(offline, [16, 40])
    history = read(run.path)["history"]
    assert [line[LENGTH] for line in history if LENGTH in line] == [16, 40]


def test_a_result_that_is_another_one_is_told_again(offline: Config) -> None:
    """Memory ran out, say, and then it did not; or another version of the code computed it."""
    run = work(offline, [16, 40])
    time.sleep(1.1)
    rows = [result.row for result in run.results().values()]
    slower = [replace(row, seconds=9.0, commit="abc") for row in rows]
    other = [slower[0], replace(slower[1], ppl=1.25)]
    for results in (slower, other, other):
        with track(offline.tracking, run.path, run.described()) as tracker:
            tracker.results(results)
        time.sleep(1.1)
    history = read(run.path)["history"]
    assert [line[PPL] for line in history if LENGTH in line] == [*(r.ppl for r in rows), 1.25]
    assert len([line for line in history if "results.path" in line]) == 2


def test_under_wandb_agent_each_run_folder_has_its_own_run(
    offline: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    for config in (offline, replace(offline, seed=1)):
        run = work(config, [16])
        kept = json.loads((run.path / "tracking.json").read_text())
        ((told, _),) = read(run.path)["runs"]
        assert told.run_id == kept["id"] != "abc"


@pytest.mark.parametrize(
    ("name", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")]
)
def test_wandbs_own_variables_switch_it_off(
    offline: Config, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert not (work(offline, [16]).path / "tracking.json").exists()


def test_a_member_after_one_that_wandb_failed_has_a_run_of_its_own(
    offline: Config, small_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for config in (offline, replace(offline, seed=1)):
        run = plan_run(config)
        with track(config.tracking, run.path, run.described()) as tracker:
            train_run(run, tracker)
            if not runs:  # the file that keeps what was logged goes amid the run
                (run.path / "tracking.json").unlink()
                (run.path / "tracking.json").mkdir()
            member = plan_evaluation(run, EvaluationConfig(lengths=[16]), "cpu")
            evaluate_run(member.run, member.wanted, tracker)
            runs.append(run)
    (first, second) = (read(run.path) for run in runs)
    assert [line["train/loss"] for line in first["history"] if "train/loss" in line]
    assert first["exit"] == second["exit"] == [0]
    kept = json.loads((runs[1].path / "tracking.json").read_text())
    assert [told.run_id for told, _ in second["runs"]] == [kept["id"]]
    assert [line[LENGTH] for line in second["history"] if LENGTH in line] == [16]


def test_nothing_to_tell_begins_no_run(offline: Config) -> None:
    run = work(offline, [16])
    work(offline, [16])
    assert len(read(run.path)["runs"]) == 1


def test_what_fails_at_wandb_does_not_stop_the_run(
    offline: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    online = replace(offline, tracking=TrackingConfig(mode="online"))
    run = work(online, [16])
    assert run.is_trained
    assert len(read_curve(run.curve)) == 3
    said = capsys.readouterr().out
    assert said.count("warning: W&B tracking failed: ") == 1
    assert "the run continues" in said


@pytest.mark.parametrize(("mode", "ends"), [("off", False), ("offline", True)])
def test_without_wandb(offline: Config, mode: str, ends: bool) -> None:
    """Where wandb cannot be imported, `off` says nothing and anything else a warning."""
    program = f"""
import sys
sys.modules["wandb"] = None
from pathlib import Path
from alibi_lm.tracking import Described, TrackingConfig, track
folder = Path({str(offline.cache)!r})
folder.mkdir()
with track(TrackingConfig(mode={mode!r}), folder, Described("n", "g", "train")) as tracker:
    tracker.metrics({{"step": 1, "loss": 2.0}})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    warning = (
        "warning: W&B tracking failed: wandb is not installed: pip install -r requirements.txt"
    )
    assert done.stdout.startswith(warning) == ends
    assert len(done.stdout.splitlines()) == ends
