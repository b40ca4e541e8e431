"""A run folder: one model, how it was made, and what it scored.

    config.yaml  manifest.json  metrics.jsonl  log.txt
    checkpoints/                 while it is trained
    tokenizer.json               what made its tokens
    model.safetensors            once it is trained
    results.jsonl  losses/*.npy  what it scored
    failed.txt                   why it stopped, if it failed
    tracking.json  wandb/        its W&B run

The folder's name carries a hash of everything that decides the trained weights (the text itself
included, not where it lies), so the same settings find the same run again.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from yaml import YAMLError

from alibi_lm.config import Config, PretrainedConfig, RunConfig, from_dict, to_dict
from alibi_lm.data.corpus import DataConfig
from alibi_lm.data.tokens import TokenizedCorpus, find_tokenizer, prepare
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Measurement
from alibi_lm.evaluation.rows import Result, Row, append_row, losses_file, read_results
from alibi_lm.machine import processes
from alibi_lm.machine.files import folder_name, remove_partial_files, write_atomically
from alibi_lm.machine.progress import say
from alibi_lm.positions import SCHEMES
from alibi_lm.runs.identity import Identity, identify
from alibi_lm.tracking import Described
from alibi_lm.training.checkpoint import load_weights, read_weights

DICTIONARY = "dict.txt"  # in the folder of a run that was converted: its words
RESTORE = "restore its config.yaml and the text that it was trained on, or train it again"
OTHER_FOLDER = "choose another name (run=NAME) or remove the folder"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    path: Path

    @property
    def weights(self) -> Path:
        """The trained weights; the file exists once training is complete."""
        return self.path / "model.safetensors"

    @property
    def is_trained(self) -> bool:
        """Whether training is complete: there are weights, here or where others keep them."""
        return self.weights.exists() or "weights_of" in self.manifest()

    @property
    def tokenizer(self) -> Path:
        """What made its tokens; runs of earlier versions have no such file."""
        return self.path / "tokenizer.json"

    @property
    def curve(self) -> Path:
        """The training curve."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What was printed while the run was trained and evaluated."""
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

        With several processes, rank 0 holds it for all.
        """
        if not processes.is_rank_zero():
            yield
            return
        if not os.access(self.path, os.W_OK):
            raise UserError(
                f"{self.path} cannot be written; evaluate.py output=FOLDER puts rows elsewhere"
            )
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
        """Keep the trained weights and facts about them; the run is trained from now on."""
        self.update_manifest(**facts, weights_sha256=hashlib.sha256(weights).hexdigest())
        write_atomically(self.weights, weights)

    def read_weights(self) -> dict[str, Tensor]:
        """The trained weights; see checkpoint.read_weights."""
        return read_weights(self.weights, self.manifest().get("weights_sha256"))

    def load_weights(self, model: nn.Module, part: str = "") -> None:
        """Read the trained weights into a model or a part of one; see checkpoint.load_weights."""
        load_weights(model, self.weights, part, self.manifest().get("weights_sha256"))

    def manifest(self) -> dict[str, Any]:
        """How the run was made; empty if there is no run."""
        file = self.path / "manifest.json"
        if not file.exists():
            return {}
        try:
            return dict(json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}") from error

    def update_manifest(self, **values: Any) -> None:
        """Add to how the run was made."""
        manifest = json.dumps(self.manifest() | values, indent=2) + "\n"
        write_atomically(self.path / "manifest.json", manifest)

    def sessions(self) -> list[dict[str, Any]]:
        """When, where and by which code the run was trained: one entry for each start."""
        sessions: list[dict[str, Any]] = self.manifest().get("sessions", [])
        return sessions

    def results(self) -> dict[Measurement, Result]:
        """What the run scored so far."""
        path = self.path / "results.jsonl"
        return {r.row.measurement: r for r in read_results(path)} if path.exists() else {}

    def add_result(self, row: Row, losses: npt.NDArray[np.float32] | None) -> Result:
        """Add a result; it replaces an earlier one of the same measurement."""
        file = None
        if losses is not None:
            file, content = losses_file(self.path, row.measurement), io.BytesIO()
            np.save(content, losses)
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, content.getvalue())
        append_row(self.path / "results.jsonl", row)
        return Result(row, file)

    def read_config(self) -> Config | PretrainedConfig:
        """The settings in config.yaml; a UserError if they cannot be read."""
        file = self.path / "config.yaml"
        try:
            values = OmegaConf.to_container(OmegaConf.load(file))
            if not isinstance(values, dict):
                raise UserError("it holds no settings")
            tokenizer, dictionary = values.get("tokenizer"), self.path / DICTIONARY
            if isinstance(tokenizer, dict) and dictionary.exists():  # wherever the folder is now
                tokenizer["dictionary"] = str(dictionary)
            if isinstance(tokenizer, dict) and not Path(tokenizer.get("path", ".")).exists():
                tokenizer["path"] = str(self.tokenizer)  # the user's own file has gone
            return from_dict({str(key): value for key, value in values.items()})
        except (OSError, YAMLError, OmegaConfBaseException, UserError) as error:
            reason = "; ".join(str(error).splitlines())
            raise UserError(f"{file} cannot be read: {reason}") from error


@dataclass(frozen=True)
class Run(RunFolder):
    """A run folder with everything that is known of the run: settings, text, identity."""

    config: RunConfig
    data: TokenizedCorpus
    identity: Identity

    @property
    def training(self) -> Config:
        """The settings that it is trained by; a UserError if others trained it."""
        if not isinstance(self.config, Config):
            raise UserError(f"{self.path} is a pretrained model, which can only be evaluated")
        return self.config

    def check(self) -> bool:
        """Whether the folder holds this run already; a UserError if it holds another."""
        if not (there := self.manifest()):
            return False
        _compare(self.path, there.get("identity", {}), self.identity.values, OTHER_FOLDER)
        _check_tokens(self.path, there, self.data)
        return True

    def create(self) -> None:
        """Make the folder, unless it holds this run already."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.lock():
            remove_partial_files(self.path)
            if not self.check():
                self.write_config()
                words = {"settings", "variant", "recipe"}
                rows = {key: value for key, value in asdict(self.identity).items() if key in words}
                write_atomically(self.tokenizer, self.data.tokenizer_file.read_bytes())
                facts = {"rows": rows, "tokens_hash": self.data.tokens_hash}
                self.update_manifest(identity=self.identity.values, **facts)

    def write_config(self) -> None:
        """Keep the settings."""
        values = to_dict(self.config)
        if self.data.revision is not None:  # so that later commits are not asked for
            values["data"]["revision"] = self.data.revision
        write_atomically(self.path / "config.yaml", OmegaConf.to_yaml(values))

    def elsewhere(self, output: str | None) -> RunFolder:
        """The folder of another output that gets its rows; itself if that is None.

        A UserError if that folder is another run's, or holds rows of one.
        """
        if output is None:
            return self
        folder = RunFolder(Path(output) / "runs" / self.path.resolve().name)
        if folder.path.resolve() == self.path.resolve():
            return self
        of, mine = folder.path / "rows_of.txt", self.manifest().get("weights_sha256", "")
        if folder.manifest() or (of.exists() and of.read_text().strip() != mine):
            raise UserError(f"output: given {output}, but {folder.path} is another run's folder")
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(of, mine + "\n")
        return folder

    @property
    def bos(self) -> int | None:
        """The number of its beginning-of-text token, if it has one."""
        token = self.config.bos_token
        return None if token is None else self.data.id_of(token)

    def described(self) -> Described:
        """How W&B describes it."""
        config = self.config
        tags = (config.position.kind, config.data.name, f"L{config.train_length}")
        scheme = {
            "family": SCHEMES.made[config.position.kind].family,
            "variant": self.identity.variant,
        }
        return Described(self.path.name, group(config), "train", tags, to_dict(config) | scheme)


def group(config: RunConfig) -> str:
    """The W&B group of the runs of a sweep: by default the name of their output folder."""
    return config.tracking.group or Path(config.output).resolve().name


def new_run(
    config: RunConfig, data: TokenizedCorpus, source: str | None = None, start: str = ""
) -> Run:
    """The run of these settings on this text; touches no file. source, start: see `identify`."""
    identity = identify(config, data, source, start)
    # For people the first words, for machines the hash.
    words = [folder_name(data.name), config.position.kind, f"L{config.train_length}"]
    if isinstance(config, PretrainedConfig):
        words.insert(0, folder_name(config.pretrained.label))
    else:
        words.append(f"s{config.seed}")
    name = config.run or "-".join((*words, identity.hash))
    return Run(Path(config.output) / "runs" / name, config, data, identity)


def open_folder(path: Path) -> RunFolder:
    """The folder of a trained run; a UserError if it is not one."""
    folder = RunFolder(path)
    if not (path / "manifest.json").exists():
        raise UserError(
            f"run: {path} is not a run folder (it has no manifest.json); train.py prints the "
            "folder that it makes"
        )
    if not folder.is_trained:
        raise UserError(
            f"run: {path} is not completely trained; run the command that made it again"
        )
    return folder


def load_run(path: Path, cache: str | None = None, text: DataConfig | None = None) -> Run:
    """A trained run from its folder, with its text. Its rows say of it what its manifest says.

    cache: where token files are, if not where the run says. text: what to read instead of the text
    that it was trained on, with the tokenizer that it was trained with. A UserError if it is not a
    trained run, or was trained with other settings or another text.
    """
    folder = open_folder(path)
    config, manifest = folder.read_config(), folder.manifest()
    tokens, there = Path(cache or config.cache), manifest.get("identity", {})
    if text is not None:
        data = _other_text(folder, config, text, tokens, there)
    else:
        try:
            data = prepare(config.data, config.tokenizer, tokens)
        except UserError as error:
            hint = "; a run's text that has moved is given as in training, with data="
            raise UserError(f"{error}{hint}") from error
        now = identify(config, data, there.get("source"))
        _compare(path, there, now.values, RESTORE)
        _check_tokens(path, manifest, data)
    return Run(path, config, data, Identity(there, **manifest.get("rows", {})))


def _other_text(
    folder: RunFolder, config: RunConfig, text: DataConfig, tokens: Path, there: dict[str, Any]
) -> TokenizedCorpus:
    """Another text, or the run's own from another place, by the run's tokenizer."""
    made: Path | None = folder.tokenizer
    if not folder.tokenizer.exists():  # a run of an earlier version: it is with its token files
        made = find_tokenizer(tokens, there["tokenizer_hash"])
    lost = UserError(
        f"{folder.path} does not hold its tokenizer, and {tokens} has no token files of it; "
        "evaluate it on its own text once, or name the folder that has them: cache=FOLDER"
    )
    if made is None and config.tokenizer.learns_from() is not None:
        raise lost
    data = prepare(text, config.tokenizer, tokens, made)
    if data.tokenizer_hash != there["tokenizer_hash"]:
        raise lost
    if data.hash != there["data_hash"]:
        return data
    _check_tokens(folder.path, folder.manifest(), data)
    return replace(data, name=config.data.name)


def _check_tokens(path: Path, manifest: dict[str, Any], data: TokenizedCorpus) -> None:
    """Refuse tokens that are not those that the run was trained on, though text and tokenizer are.

    Another version of the tokenizers library may give such. Runs of earlier versions do not say.
    """
    if manifest.get("tokens_hash", data.tokens_hash) != data.tokens_hash:
        raise UserError(
            f"run folder {path} was trained on other tokens of the same text; install the version "
            "of tokenizers that requirements.txt names, or remove the token files in the cache"
        )


def _compare(path: Path, there: dict[str, Any], here: dict[str, Any], advice: str) -> None:
    differences = [
        f"{key} is {_short(key, there)} there and {_short(key, here)} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise UserError(
            f"run folder {path} was trained with other settings: {'; '.join(differences)}; {advice}"
        )


def _short(key: str, values: dict[str, Any]) -> str:
    if key not in values:
        return "the default"
    value = values[key]
    return repr(value[:8] if key.endswith("_hash") and isinstance(value, str) else value)
