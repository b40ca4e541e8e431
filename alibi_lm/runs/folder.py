"""A run folder: one model, how it was made, and what it scored.

    config.yaml  manifest.json  metrics.jsonl  log.txt
    checkpoints/                 while it is trained
    model.safetensors            once it is
    results.jsonl  losses/*.npy  what it scored
    failed.txt                   why it stopped, if it failed
    tracking.json  wandb/        its W&B run

The folder's name carries a hash of everything that decides the trained weights (the text itself
included, not where it lies), so the same settings find the same run again.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from yaml import YAMLError

from alibi_lm.config import Config, from_dict, to_dict
from alibi_lm.data.tokens import TokenizedCorpus
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Protocol
from alibi_lm.evaluation.rows import Result, Row, losses_file, read_results, write_jsonl
from alibi_lm.machine import processes
from alibi_lm.machine.files import remove_partial_files, write_atomically
from alibi_lm.machine.progress import say
from alibi_lm.runs.identity import _flat, identity, run_name
from alibi_lm.training.checkpoint import load_weights

DICTIONARY = "dict.txt"  # in the folder of a run that was converted: its words


OTHER_FOLDER = "choose another name (run=NAME) or remove the folder"


@dataclass(frozen=True)
class Run:
    """An open run folder."""

    path: Path
    config: Config

    @property
    def weights(self) -> Path:
        """The trained weights; the file exists once training is complete."""
        return self.path / "model.safetensors"

    @property
    def is_trained(self) -> bool:
        """Whether training is complete."""
        return self.weights.exists()

    @property
    def curve(self) -> Path:
        """The training curve."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What was said while the run was trained and evaluated."""
        return self.path / "log.txt"

    @property
    def failure(self) -> Path:
        """Why the run stopped; the file exists if it failed when it was last worked on."""
        return self.path / "failed.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of training states; it exists while training is not complete."""
        return self.path / "checkpoints"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while the run is trained or evaluated, so that two commands never do both.

        Of several processes that work together, the first holds it for all.
        """
        if not processes.is_first():
            yield
            return
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            say(f"waiting: another command is working on {self.path}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def finish(self, weights: bytes, **facts: Any) -> None:
        """Keep the trained weights, with how they came about; the run is trained from now on."""
        self.update_manifest(**facts, weights_sha256=hashlib.sha256(weights).hexdigest())
        write_atomically(self.weights, weights)

    def load_weights(self, model: nn.Module, part: str = "") -> None:
        """Read the trained weights into a model or a part of one; see checkpoint.load_weights."""
        load_weights(model, self.weights, part, self.manifest().get("weights_sha256"))

    def manifest(self) -> dict[str, Any]:
        """How the run was made."""
        return _read_manifest(self.path)

    def update_manifest(self, **values: Any) -> None:
        """Add to how the run was made."""
        manifest = json.dumps(self.manifest() | values, indent=2) + "\n"
        write_atomically(self.path / "manifest.json", manifest)

    def sessions(self) -> list[dict[str, Any]]:
        """When, where and by which code the run was trained, a part for each time it was begun."""
        sessions: list[dict[str, Any]] = self.manifest().get("sessions", [])
        return sessions

    def add_session(self, session: dict[str, Any]) -> None:
        """Note in the manifest that training begins or goes on."""
        self.update_manifest(sessions=[*self.sessions(), session])

    def results(self) -> dict[Protocol, Result]:
        """What the run scored so far, by what was measured."""
        path = self.path / "results.jsonl"
        return {r.row.what: r for r in read_results(path)} if path.exists() else {}

    def add_result(self, row: Row, losses: npt.NDArray[np.float32] | None) -> None:
        """Keep one more result, in place of an earlier one of the same measurement."""
        if losses is not None:
            file, content = losses_file(self.path, row.what), io.BytesIO()
            np.save(content, losses)
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, content.getvalue())
        others = [there.row for what, there in self.results().items() if what != row.what]
        write_jsonl(self.path / "results.jsonl", [*others, row])


def find_run(config: Config, data: TokenizedCorpus) -> Run:
    """Where the run of these settings is or would be; touches nothing."""
    return Run(Path(config.output) / "runs" / (config.run or run_name(config, data)), config)


def check_identity(config: Config, data: TokenizedCorpus) -> None:
    """Refuse settings whose run folder holds another run."""
    run = find_run(config, data)
    if (run.path / "manifest.json").exists():
        there = _read_manifest(run.path).get("identity", {})
        _compare(run.path, there, identity(config, data), OTHER_FOLDER)


def open_run(config: Config, data: TokenizedCorpus) -> Run:
    """The run of these settings: a new folder, or the one that is there if it is the same run."""
    run = find_run(config, data)
    path, wanted = run.path, identity(config, data)
    path.mkdir(parents=True, exist_ok=True)
    with run.lock():
        remove_partial_files(path)
        check_identity(config, data)
        if not (path / "manifest.json").exists():
            write_atomically(path / "config.yaml", OmegaConf.to_yaml(to_dict(config)))
            write_atomically(
                path / "manifest.json", json.dumps({"identity": wanted}, indent=2) + "\n"
            )
    return run


def load_run(path: Path) -> Run:
    """A trained run from its folder."""
    if not (path / "manifest.json").exists():
        raise UserError(
            f"run: {path} is no run folder (it has no manifest.json); train.py prints the folder "
            "that it makes"
        )
    file = path / "config.yaml"
    try:
        values = OmegaConf.to_container(OmegaConf.load(file))
        if not isinstance(values, dict):
            raise UserError("it holds no settings")
        tokenizer, dictionary = values.get("tokenizer"), path / DICTIONARY
        if isinstance(tokenizer, dict) and dictionary.exists():  # wherever the folder is now
            tokenizer["dictionary"] = str(dictionary)
        config = from_dict({str(key): value for key, value in values.items()})
    except (OSError, YAMLError, OmegaConfBaseException, UserError) as error:
        raise UserError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    run = Run(path, config)
    if not run.is_trained:
        raise UserError(
            f"run: {path} is not trained to the end; run the command that made it again"
        )
    return run


def check_data(run: Run, data: TokenizedCorpus) -> None:
    """Refuse a run whose settings or text are not those that it was trained with."""
    _compare(
        run.path,
        run.manifest().get("identity", {}),
        identity(run.config, data),
        "restore its config.yaml and the text that it was trained on, or train anew",
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged: {error}") from error


def _compare(path: Path, there: dict[str, Any], here: dict[str, Any], advice: str) -> None:
    there, here = _flat(there), _flat(here)
    differences = [
        f"{key} is {_short(key, there.get(key))} there and {_short(key, here.get(key))} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise UserError(
            f"run folder {path} was trained with other settings: {'; '.join(differences)}; {advice}"
        )


def _short(key: str, value: Any) -> str:
    return repr(value[:8] if key.endswith("_hash") and isinstance(value, str) else value)
