"""What a run will do, checked before anything is trained."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from alibi_lm.attention import Circumstances
from alibi_lm.config import Config, PretrainedConfig, RunConfig
from alibi_lm.data.batches import Batches
from alibi_lm.data.tokens import TokenizedCorpus, prepare
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.evaluation.protocols import EvaluationConfig, Measurement, measurements
from alibi_lm.machine import processes
from alibi_lm.machine.device import resolve_device
from alibi_lm.model.decoder import check_vocabulary
from alibi_lm.positions.base import cannot_compute
from alibi_lm.runs.folder import Run, new_run
from alibi_lm.runs.readings import readings
from alibi_lm.runs.start import find_start

Corpora = dict[str, TokenizedCorpus]  # those that are open, by settings


@dataclass(frozen=True)
class Member:
    """A run, what is to be measured of it, and the words of the command line that ask for it."""

    run: Run
    wanted: list[Measurement]
    overrides: tuple[str, ...] = ()


def check_settings(config: Config) -> None:
    """Refuse what cannot be trained or evaluated here, before any text is read."""
    n_processes, dropout = processes.world_size(), config.model.attention_dropout > 0
    where = Circumstances(resolve_device(config.device).type, training=True, dropout=dropout)
    check_backend(config, config.backend, where, config.train_length)
    check_evaluation(config, config.evaluation, config.backend)
    if problems := config.sharing_problems(n_processes):
        raise SettingsError(problems)


def plan_run(config: Config) -> Run:
    """The run of these settings; a UserError if it cannot be trained.

    Text that is not yet tokenized is tokenized.
    """
    check_settings(config)
    return open_run(config, {})


def plan_member(config: Config) -> Member:
    """The run of these settings and what is to be measured of it; a UserError if it cannot be."""
    check_settings(config)
    return open_member(config, {})


def open_member(config: Config, corpora: Corpora, overrides: tuple[str, ...] = ()) -> Member:
    """`plan_member` of settings that are checked. corpora: those that other members have opened."""
    run = open_run(config, corpora)
    return Member(run, wanted_of(run, config.evaluation, config.backend), overrides)


def open_run(config: Config, corpora: Corpora) -> Run:
    """`plan_run` of settings that are checked."""
    key = repr((config.data, config.tokenizer, config.cache))
    if key not in corpora:
        corpora[key] = prepare(config.data, config.tokenizer, Path(config.cache))
    data = corpora[key]
    check_vocabulary(config.model, data.vocab_size)
    batches_of(config, data)  # refuses a length that the text is too short for
    run = new_run(config, data, *(find_start(config, data) or ()))
    run.check()
    return run


def batches_of(config: Config, data: TokenizedCorpus) -> Batches:
    """A run's training batches."""
    return Batches(data.split("train"), config.train_length, config.sequences_per_step, config.seed)


def check_backend(
    config: RunConfig, backend: str, where: Circumstances, length: int, window: int | None = None
) -> None:
    """Refuse a backend that cannot compute the scheme's attention over texts of that length."""
    if isinstance(config, PretrainedConfig):
        if backend != "auto":
            raise UserError(f"backend: given {backend}, but a pretrained model has its own")
        return
    if found := cannot_compute(config.position, backend, length, where, window):
        advice = "" if backend == "auto" else "; auto chooses one that can"
        raise UserError(f"backend: given {backend}, but {found}{advice}")


def check_evaluation(config: RunConfig, settings: EvaluationConfig, backend: str) -> None:
    """Refuse lengths that leave nothing to do, and a backend that cannot compute them."""
    if problems := settings.length_problems(config.train_length):
        raise SettingsError(problems)
    where = Circumstances(resolve_device(config.device).type)
    windows = {"full": None, "window": settings.window or config.train_length}
    if settings.bos not in (None, "none") and config.bos_token is None:
        raise SettingsError(
            [f"evaluation.bos: given {settings.bos}, but the run has no beginning-of-text token"]
        )
    for position in readings(config, settings.position).values():
        read = replace(config, position=position)
        if position.sinks and "window" in settings.attention:
            raise SettingsError(
                [
                    f"evaluation.attention: given {settings.attention}, but the scheme has sinks "
                    f"({position.sinks}), which a second window would hide; leave out window"
                ]
            )
        for length in settings.lengths_of(config.train_length):
            for attention in settings.attention:
                check_backend(read, backend, where, length, windows[attention])


def wanted_of(run: Run, settings: EvaluationConfig, backend: str) -> list[Measurement]:
    """What these settings want of a run; a UserError if its text does not allow it.

    A backend other than auto is part of what is measured, and so is a reading.
    """
    config, data = run.config, run.data
    dtype = settings.dtype or config.evaluation.dtype or config.dtype
    bos = settings.bos or config.evaluation.bos or "none"
    forced = "" if backend == "auto" else f"backend={backend}"
    wanted = [
        measurement
        for words in readings(config, settings.position)
        for measurement in measurements(
            settings, config.train_length, data.hash, dtype, f"{forced} {words}".strip(), bos
        )
    ]
    n_targets = data.split(settings.split).tokens
    problems = {
        f"{problem} (data set {data.name})"
        for measurement in wanted
        if (problem := measurement.protocol.unfit(n_targets, settings.split))
    }
    if problems:
        raise UserError("\n".join(sorted(problems)))
    return wanted


def plan_evaluation(
    run: Run, settings: EvaluationConfig, device: str = "auto", backend: str = "auto"
) -> Member:
    """A trained run and what these settings want of it; a UserError if it cannot be had."""
    here = replace(run, config=replace(run.config, device=device, backend=backend))
    check_evaluation(here.config, settings, backend)
    wanted = wanted_of(here, settings, backend)
    return Member(replace(run, config=replace(here.config, evaluation=settings)), wanted)


def check_folders(members: list[Member]) -> None:
    """Refuse runs that differ and would share a folder."""
    for a, b in itertools.combinations(members, 2):
        if a.run.path == b.run.path and a.run.identity != b.run.identity:
            raise UserError(
                f"run: given {b.run.config.run}, but the sweep's runs differ and need a folder "
                "each; leave run=NAME to single runs"
            )
