import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import evaluated
from samples import trained as train

from alibi_lm.config import Config
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.runs.folder import Run
from alibi_lm.runs.reproduce import ReproduceConfig, Reproduction, first_difference
from alibi_lm.runs.reproduce import reproduce as reproduce_run
from alibi_lm.runs.train import build_model
from alibi_lm.training.checkpoint import pack_weights

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def trained(small_config: Callable[..., Config]) -> Run:
    run = train(small_config("t5"))
    every = EvaluationConfig(
        protocols=["nonoverlapping", "sliding", "same_targets"],
        lengths=[16, 40],
        stride=8,
        targets=20,
        attention=["full", "window"],
    )
    evaluated(run, every)
    evaluated(run, EvaluationConfig(lengths=[20]), "reference")
    return run


def reproduce(folder: Path, output: Path) -> Reproduction:
    return reproduce_run(ReproduceConfig(str(folder), str(output)))


def verdicts(run: Run, output: Path) -> dict[str, str | None]:
    return {part.part: part.difference for part in reproduce(run.path, output).comparisons}


def test_all_of_it_again_bit_for_bit(trained: Run, tmp_path: Path) -> None:
    made = reproduce(trained.path, tmp_path / "again")
    assert made.identical
    assert made.again.path.name == trained.path.name
    assert len(made.again.results()) == len(trained.results()) == 13
    assert [part.part for part in made.comparisons] == [
        "metrics.jsonl",
        "model.safetensors",
        "results.jsonl",
        "losses/",
    ]
    verdict = json.loads((made.again.path / "reproduction.json").read_text())
    assert verdict["identical"] is True
    assert len(verdict["comparisons"]) == 4
    # A second time in another folder, as the first is taken.
    assert reproduce(trained.path, tmp_path / "again").again.path.name.endswith("-2")


def test_the_first_difference_is_named(trained: Run, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in trained.curve.read_text().splitlines()]
    lines[-1]["loss"] += 1e-6
    trained.curve.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = build_model(trained, None, "auto")
    trained.load_weights(model)
    model.norm.weight.data[3] *= 1.5
    trained.finish(pack_weights(model))
    result = next(iter(trained.results().values()))
    assert result.losses_file is not None
    losses = np.load(result.losses_file)
    losses[[5, 6]] = losses[[6, 5]]
    np.save(result.losses_file, losses)

    found = verdicts(trained, tmp_path / "again")
    assert found["metrics.jsonl"] is not None
    assert found["metrics.jsonl"].startswith("loss of step 6 is ")
    assert "(relative difference " in found["metrics.jsonl"]
    assert found["model.safetensors"] is not None
    assert found["model.safetensors"].startswith("1 numbers of norm.weight; number 3 is ")
    assert found["results.jsonl"] is None
    assert found["losses/"] is not None
    assert found["losses/"].startswith(f"2 numbers of {result.row.measurement.label}; number 5 is ")


def test_what_one_of_the_two_has_not() -> None:
    losses = np.zeros(3)
    assert first_difference({"a": losses}, {"a": None}) == "only one of the two has a"
    assert first_difference({"a": losses}, {}) == "only one of the two has a"
    assert first_difference({"a": losses}, {"a": losses.copy()}) is None


def test_damaged_weights_are_refused_before_training(trained: Run, tmp_path: Path) -> None:
    trained.weights.write_bytes(trained.weights.read_bytes()[:99])
    with pytest.raises(UserError, match="is damaged: its checksum is another"):
        reproduce(trained.path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_differs_around_it_is_named(trained: Run, tmp_path: Path) -> None:
    (session,) = trained.sessions()
    session["packages"] |= {"torch": "1.0"}
    trained.update_manifest(sessions=[session])
    (difference,) = [
        line
        for line in reproduce(trained.path, tmp_path / "again").circumstances
        if line.startswith("packages")
    ]
    assert "'torch': '1.0'" in difference


def test_a_text_that_changed_or_a_manifest_that_says_nothing_is_refused(
    trained: Run, tmp_path: Path
) -> None:
    data = trained.config.data
    assert isinstance(data, TextConfig)
    text = Path(data.train[0])
    before = text.read_text()
    try:
        text.write_text(before + "one more line\n")
        with pytest.raises(UserError, match="data_hash is "):
            reproduce(trained.path, tmp_path / "again")
    finally:
        text.write_text(before)
    trained.update_manifest(sessions=[])
    with pytest.raises(UserError, match="does not say how the run was made"):
        reproduce(trained.path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_script(in_process: Script, on_text: list[str], tmp_path: Path) -> None:
    assert in_process("train", *on_text, "output=out", "run=mine").returncode == 0
    again = in_process("reproduce", "run=out/runs/mine")
    assert again.returncode == 0, again.stderr
    assert again.stdout.endswith("reproduced bit for bit\n")
    curve = tmp_path / "out" / "runs" / "mine" / "metrics.jsonl"
    curve.write_text(curve.read_text().replace('"step": 6', '"step": 7'))
    other = in_process("reproduce", "run=out/runs/mine")
    assert other.returncode == 1
    assert "differs: only one of the two has step 6, step 7" in other.stdout
    assert other.stdout.endswith("not identical\n")
