"""Sweeps through Hydra's launchers, and one model in several processes, as a user starts them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alibi_lm.cli import register
from alibi_lm.config import Config

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
    ],
    ids=["joblib", "submitit"],
)
def test_members_run_elsewhere_and_failures_come_home(
    cold_script: Script, on_text: list[str], tmp_path: Path, launcher: list[str]
) -> None:
    settings = [a for a in on_text if not a.startswith("optim.warmup")]
    swept = ["optim.warmup_steps=0", "optim.lr=1e20,1e-3"]
    done = cold_script("sweep", *launcher, *settings, *swept, "output=out")
    assert done.returncode == 1, done.stderr
    assert "1 of 2 runs failed:" in done.stdout
    assert f"python scripts/sweep.py {' '.join(launcher)}" in done.stdout
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["position"] for row in rows] == ["alibi", "alibi"]
    for manifest in (tmp_path / "out").glob("runs/*/manifest.json"):
        (session,) = json.loads(manifest.read_text())["sessions"]
        assert session["threads"] == 1  # the members divide the cores, or as the environment says
    (failed,) = (tmp_path / "out").glob("runs/*/failed.txt")
    assert failed.read_text().startswith("training stopped before update 2")


def test_optuna_searches_for_the_smallest_loss(
    script: Script, on_text: list[str], tmp_path: Path
) -> None:
    """Each trial is a run like any other, and what is told of it is the loss of its rows."""
    search = ["hydra/sweeper=optuna", "position.scale=interval(0.1,8)", "hydra.sweeper.n_trials=3"]
    done = script("sweep", "position=alibi", *search, *on_text, "output=out", "tracking=off")
    assert done.returncode == 0, done.stderr
    losses = {}
    for run in (tmp_path / "out" / "runs").iterdir():
        rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
        losses[rows[0]["variant"]] = sum(row["loss"] for row in rows) / len(rows)
    assert len(losses) == 3
    best = OmegaConf.load(tmp_path / "out" / "optimization_results.yaml")
    smallest = min(losses, key=lambda variant: losses[variant])
    assert best.best_value == pytest.approx(losses[smallest])
    assert smallest == f"scale={best.best_params['position.scale']}"
    # What cannot be trained ends nothing; what cannot be scored at all lengths is worst.
    grid = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=4"]
    words = [*grid, "position=choice(learned,alibi)", "optim.lr=choice(1e20,1e-3)"]
    done = script("sweep", *words, *on_text, "output=two", "tracking=off")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "two").glob("runs/*/failed.txt"))) == 2
    assert "takes its loss as infinite: nothing was scored at [40]" in done.stdout
    best = OmegaConf.load(tmp_path / "two" / "optimization_results.yaml")
    assert best.best_params == {"position": "alibi", "optim.lr": 1e-3}
    done = script("sweep", "position=alibi", "hydra/sweeper=nope", *on_text)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "hydra/sweeper: cannot be set" in done.stderr


def test_a_slurm_job_is_queued_again_when_it_runs_out_of_time() -> None:
    register(Config)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose(
            "config", ["hydra/launcher=slurm", "output=here"], return_hydra_config=True
        )
    launcher = config.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert launcher.max_num_timeout > 0
    assert launcher.submitit_folder == "here/slurm/%j"


def test_torchrun_stopped_and_started_again(on_text: list[str], tmp_path: Path) -> None:
    steps = [a for a in on_text if not a.startswith("optim.steps")] + ["optim.steps=200"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "scripts" / "train.py"), *steps, "output=out", "run=mine"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "parallel=fsdp"],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    folder = tmp_path / "out" / "runs" / "mine"
    stopped = start()
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode != 0
    assert errors.count("interrupted: finished work is kept") == 1
    (checkpoint,) = (folder / "checkpoints").iterdir()
    step = int(checkpoint.name.split("-")[1])

    again = start()
    said, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert f"in 2 processes, continuing after step {step}\n" in said
    assert said.count("continuing after") == 1
    sessions = json.loads((folder / "manifest.json").read_text())["sessions"]
    assert [session["processes"] for session in sessions] == [2, 2]
    assert sessions[1]["parallel"] == "fsdp"
    assert (folder / "model.safetensors").exists()
