"""Full disks, folders that go, damaged files, two commands at once: in real processes."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Fork, ForkedScript
from samples import outcome

from alibi_lm.config import Config
from alibi_lm.runs.folder import RunFolder
from alibi_lm.training.optim import AdamwConfig

Script = Callable[..., subprocess.CompletedProcess[str]]
OPTIM = AdamwConfig(steps=40, warmup_steps=5, tokens_per_step=64)


def finish(process: Any) -> None:
    process.join(60)
    assert process.exitcode == 0


def wait_for(process: ForkedScript, there: Callable[[], object]) -> None:
    while not there():
        assert process.poll() is None
        time.sleep(0.001)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(script: Script, on_text: list[str], small_disk: Path) -> None:
    arguments = [*on_text, "checkpoint_seconds=0", f"output={small_disk}", "run=mine"]
    folder = small_disk / "runs" / "mine"
    (small_disk / "ballast").write_bytes(bytes(320_000))
    full = script("train", *arguments)
    assert full.returncode == 2, full.stderr
    last = full.stderr.splitlines()[-1]
    assert last.startswith(f"error: cannot use {folder}/checkpoints/step-0000000")
    assert last.endswith(": No space left on device")
    assert not (folder / "model.safetensors").exists()
    assert not list(folder.rglob("*.partial"))
    (small_disk / "ballast").unlink()
    freed = script("train", *arguments)
    assert freed.returncode == 0, freed.stderr
    assert "continuing after step" in freed.stdout
    assert script("train", *on_text, "output=roomy", "run=mine").returncode == 0
    roomy = small_disk.parent / "roomy" / "runs" / "mine"
    assert outcome(RunFolder(folder)) == outcome(RunFolder(roomy))


def test_a_disk_that_is_full_before_the_text_is_tokenized(
    script: Script, on_text: list[str], small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(524_288 - 8_192))
    full = script("prepare", *on_text, f"cache={small_disk}/cache")
    assert full.returncode == 2
    last = full.stderr.splitlines()[-1]
    assert last.startswith(f"error: cannot use {small_disk}/cache/.text-bpe-")
    assert last.endswith(": No space left on device")
    assert [path.suffix for path in (small_disk / "cache").iterdir()] == [".lock"]


def test_an_output_folder_that_goes(fork: Fork, on_text: list[str], tmp_path: Path) -> None:
    steps = [a for a in on_text if not a.startswith("optim.steps")] + ["optim.steps=100000"]
    process = fork.script("train", *steps, "output=out", "checkpoint_seconds=0", folder=tmp_path)
    wait_for(process, lambda: list(tmp_path.glob("out/runs/*/checkpoints/step*")))
    (tmp_path / "out").rename(tmp_path / "gone")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    last = errors.splitlines()[-1]
    assert last.startswith("error: cannot use out/runs/")
    assert last.endswith("No such file or directory")


def test_killed_while_it_tokenizes(
    script: Script, fork: Fork, on_text: list[str], text_file: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text(text_file.read_text() * 300)
    arguments = [a for a in on_text if not a.startswith("data.train")] + [f"data.train=[{long}]"]
    process = fork.script("prepare", *arguments, folder=tmp_path)
    wait_for(process, lambda: list(tmp_path.glob("outputs/cache/.*.partial/tokenizer.json")))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (left,) = tmp_path.glob("outputs/cache/.*.partial")
    assert not list(tmp_path.glob("outputs/cache/text-*/manifest.json"))
    done = script("prepare", *arguments)
    assert done.returncode == 0, done.stderr
    assert not left.exists()
    assert len(list(tmp_path.glob("outputs/cache/text-*/manifest.json"))) == 1


def test_two_sweeps_at_once_on_one_cache(fork: Fork, on_text: list[str], tmp_path: Path) -> None:
    arguments = [*on_text, "position=none,alibi", "output=out", "cache=cache"]
    both = [fork.script("sweep", *arguments, folder=tmp_path) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    runs = [RunFolder(path) for path in (tmp_path / "out" / "runs").iterdir()]
    assert len(runs) == 2
    for run in runs:
        assert len(run.manifest()["sessions"]) == 1
        assert len(run.results()) == 2


def test_a_damaged_checkpoint_is_seen_and_the_one_before_it_used(
    small_config: Callable[..., Config],
    fork: Fork,
    tmp_path: Path,
) -> None:
    config = small_config("t5", optim=OPTIM, checkpoint_seconds=0)
    whole = replace(config, output=str(tmp_path / "whole"))
    finish(fork.start(whole))
    (folder,) = (tmp_path / "whole" / "runs").iterdir()
    wanted = outcome(RunFolder(folder))
    for damage in ("truncated", "altered", "both"):
        damaged = replace(config, output=str(tmp_path / damage))
        process = fork.start(damaged)
        there: list[Path] = []
        while len(there) < 2:
            assert process.is_alive()
            there = sorted((tmp_path / damage).glob("runs/*/checkpoints/step-*"))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        there = sorted((tmp_path / damage).glob("runs/*/checkpoints/step-*"))
        content = bytearray(there[-1].read_bytes())
        content[len(content) // 2] ^= 1
        altered = bytes(content)
        there[-1].write_bytes(altered[:-100] if damage == "truncated" else altered)
        if damage == "both":
            for path in there:
                path.write_bytes(b"")
        finish(fork.start(damaged))
        (folder,) = (tmp_path / damage / "runs").iterdir()
        assert outcome(RunFolder(folder)) == wanted
        said = (folder / "log.txt").read_text()
        assert f"warning: {there[-1]} is damaged and not used" in said
        before = [int(path.name.split("-")[1]) for path in there[:-1]]
        assert ("continuing after step" in said) == (damage != "both")
        if damage != "both":
            assert f"continuing after step {before[-1]}\n" in said
