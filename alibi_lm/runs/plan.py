"""The members of a sweep, composed and checked before the first is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from alibi_lm.cli import (
    CONFIGS,
)
from alibi_lm.config import Config, from_hydra, register_schemas
from alibi_lm.data.tokens import TokenizedCorpus, prepare
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.runs.evaluate import check_evaluation, evaluation_device, protocols
from alibi_lm.runs.folder import Run, check_identity, find_run
from alibi_lm.runs.identity import identity
from alibi_lm.runs.train import training_batches, training_device


@dataclass(frozen=True)
class Member:
    """One run of a sweep, and the words that ask for it."""

    config: Config
    overrides: list[str]

    @property
    def run(self) -> Run:
        """Where it is or would be."""
        return find_run(self.config, _prepared(self.config))


def plan(overrides: list[str]) -> list[Member]:
    """Every member of the sweep, in order; a SettingsError if any of them cannot be."""
    register_schemas()
    parser = OverridesParser.create()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        fixed = [o for o in overrides if not parser.parse_override(o).is_sweep_override()]
        base = compose("config", fixed, return_hydra_config=True)
        # A preset's own choices come first; the command line replaces them key by key.
        preset = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
        choices = parser.parse_overrides([*preset, *overrides])
        (batch,) = BasicSweeper.split_arguments(choices, max_batch_size=None)
        members, problems = [], []
        for member in batch:
            try:
                members.append(Member(from_hydra(compose("config", member), Config), member))
            except SettingsError as error:
                problems += [line for line in error.problems if line not in problems]
    if problems:
        raise SettingsError(problems)
    return members


def check_members(members: list[Config]) -> None:
    """Check devices, outputs and every length; tokenize what is not yet tokenized."""
    for config in members:
        training_device(config)
        evaluation_device(config, protocols(config.evaluation, config.train_length))
    for output in {config.output for config in members}:
        (Path(output) / "runs").mkdir(parents=True, exist_ok=True)
    identities: dict[Path, dict[str, Any]] = {}
    for config in members:
        data = _prepared(config)
        training_batches(config, data)  # refuses a length that the text is too short for
        check_evaluation(config.evaluation, config.train_length, data)
        check_identity(config, data)
        wanted = identity(config, data)
        if identities.setdefault(find_run(config, data).path, wanted) != wanted:
            raise UserError(
                f"run: given {config.run}, but the sweep's runs differ and need a folder each; "
                "leave run=NAME to single runs"
            )


_OPEN: dict[str, TokenizedCorpus] = {}


def _prepared(config: Config) -> TokenizedCorpus:
    """The member's token files; members that share them read and hash the text once."""
    key = repr((config.data, config.tokenizer, config.cache))
    if key not in _OPEN:
        _OPEN[key] = prepare(config.data, config.tokenizer, Path(config.cache))
    return _OPEN[key]
