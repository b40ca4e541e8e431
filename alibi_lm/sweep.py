"""Sweeps: Hydra's own multirun over runs, then one report over what they scored.

Every member is composed and checked before the first is trained, so a typo in the last one costs
nothing. Which launcher runs the members is Hydra's business. A member that fails leaves its reason
in its folder and the others go on; at the end stands what failed and how to run just that again.
"""

import itertools
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from alibi_lm.cli import (
    CONFIGS,
    FAILED,
    check_overrides,
    explain,
    help_text,
    run_cleanly,
    run_hydra,
    wants_help,
)
from alibi_lm.config import Config, from_hydra, register_schemas
from alibi_lm.data.tokens import TokenizedCorpus, prepare
from alibi_lm.errors import NonfiniteError, SettingsError, UserError
from alibi_lm.evaluation import (
    check_evaluation,
    evaluate_run,
    evaluation_device,
    evaluation_dtype,
    missing_results,
    protocols,
)
from alibi_lm.machine import processes
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.interruption import listen
from alibi_lm.machine.progress import say
from alibi_lm.report import summary, write_report
from alibi_lm.report.tables import Table, markdown
from alibi_lm.results import Result
from alibi_lm.runs import Run, check_identity, find_run, identity
from alibi_lm.session import train_run, training_batches, training_device
from alibi_lm.tracking import track


@dataclass(frozen=True)
class Member:
    """One run of a sweep, and the words that ask for it."""

    config: Config
    overrides: list[str]

    @property
    def run(self) -> Run:
        """Where it is or would be."""
        return find_run(self.config, _prepared(self.config))


def main(doc: str) -> None:
    """Run the sweep that the command line describes."""
    if wants_help():
        print(help_text(doc, Config))
    else:
        run_cleanly(lambda: sweep(sys.argv[1:]))


def sweep(arguments: list[str]) -> None:
    """Check every member, run them through Hydra's multirun, report on all of them."""
    options = get_args_parser().parse_args(arguments)
    if options.cfg or options.info or options.hydra_help:
        run_hydra("config", lambda values: None)  # Hydra prints what is asked for and runs nothing
        return
    check_overrides(options.overrides, may_sweep=True)
    members = plan(options.overrides)
    total = len(members)
    say(f"{total} {'run' if total == 1 else 'runs'}")
    check_members([member.config for member in members])

    def job(values: DictConfig) -> None:
        number = HydraConfig.get().job.num + 1
        run_or_note_why_not(from_hydra(values, Config), f"[{number}/{total}] ")

    if not options.multirun:
        sys.argv.append("--multirun")
    launcher_error: Exception | None = None
    try:
        run_hydra("config", job)
    except Exception as error:  # of the launcher: a member's own is noted in its folder
        say(f"the launcher failed: {type(error).__name__}: {error}")
        launcher_error = error
    processes.join()
    failed = processes.by_first(lambda: report(members))
    if launcher_error is not None:
        raise launcher_error
    if failed:
        sys.exit(FAILED)


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


def run_or_note_why_not(config: Config, label: str) -> None:
    """Run a member wherever the launcher put it; if it fails, its folder says why."""
    listen()
    run: Run | None = None
    try:
        run = find_run(config, _prepared(config))
        if processes.is_first():
            run.failure.unlink(missing_ok=True)
        run_member(config, label)
    except Exception as error:
        reason = explain(error, Config) or f"{type(error).__name__}: {error}"
        say(f"{label}failed: {reason}")
        if run is not None and processes.is_first():
            with suppress(OSError):  # the disk may be full, which is what was said
                run.path.mkdir(parents=True, exist_ok=True)
                write_atomically(run.failure, reason + "\n")
        if processes.count() > 1 and not isinstance(error, NonfiniteError):
            raise SystemExit(FAILED) from error  # the others wait for this one


def run_member(config: Config, label: str = "") -> None:
    """Train and evaluate one run, each unless it is done."""
    data = _prepared(config)
    with track(config, find_run(config, data).path) as tracker:
        run = train_run(config, data, tracker, label)
        evaluate_run(run, data, config.evaluation, config.device, config.backend, tracker, label)


def report(members: list[Member]) -> bool:
    """Print and write the report of what all members scored, and what failed; whether any did."""
    results, failed = [], []
    for member in members:
        config = member.config
        run, wanted = member.run, protocols(config.evaluation, config.train_length)
        try:
            there = run.results()
            dtype = evaluation_dtype(config.evaluation, config)
            missing = missing_results(run, wanted, config.backend, dtype, again=False)
        except UserError:  # its rows are damaged, as its failure says
            there, missing = {}, wanted
        results += [there[protocol] for protocol in wanted if protocol in there]
        if missing or run.failure.exists():
            failed.append(member)
    try:
        if results:
            _report_on(results, members[0].config)
    finally:
        if failed:
            say("\n" + failures(failed, len(members)))
    return bool(failed)


def _report_on(results: list[Result], config: Config) -> None:
    output = Path(config.report or config.output)
    rows = output / "results.csv"
    before = rows.read_bytes() if rows.exists() else b""
    paths = write_report(results, output)
    if rows.read_bytes() != before:
        with track(config, output, "report") as tracker:
            tracker.table([result.row for result in results])
            for path in paths:
                if path.suffix == ".png":
                    tracker.figure(path)
    say("\n" + summary(results) + "\n")
    say("written: " + ", ".join(map(str, paths)))


def failures(failed: list[Member], total: int) -> str:
    """A table of the members that failed, and the commands that run them again."""
    body = []
    for member in failed:
        run = member.run
        why = (
            run.failure.read_text()
            if run.failure.exists()
            else "no word of it: killed, or not done yet"
        )
        log = str(run.log) if run.log.exists() else "none"
        body.append([run.path.name, " ".join(why.split()), log])
    table = markdown(Table(["run", "why", "log"], body, texts=3), aligned=False)
    lines = [f"{len(failed)} of {total} runs failed:", "", table, ""]
    lines += ["to run just these again:", *(f"  {line}" for line in commands(failed))]
    return "\n".join(lines)


def commands(members: list[Member]) -> list[str]:
    """Commands for these members: one, where they are all combinations of their settings."""
    choices: dict[str, list[str]] = {}
    for member in members:
        for override in member.overrides:
            key, _, value = override.partition("=")
            values = choices.setdefault(key, [])
            if value not in values:
                values.append(value)
    combinations = [
        [f"{key}={value}" for key, value in zip(choices, values, strict=True)]
        for values in itertools.product(*choices.values())
    ]
    wanted = [member.overrides for member in members]
    if all(combination in wanted for combination in combinations):
        wanted = [[f"{key}={','.join(values)}" for key, values in choices.items()]]
    start = ["python"]
    if processes.count() > 1:
        start = ["torchrun", f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"]
    return [shlex.join([*start, "scripts/sweep.py", *overrides]) for overrides in wanted]


_OPEN: dict[str, TokenizedCorpus] = {}


def _prepared(config: Config) -> TokenizedCorpus:
    """The member's token files; members that share them read and hash the text once."""
    key = repr((config.data, config.tokenizer, config.cache))
    if key not in _OPEN:
        _OPEN[key] = prepare(config.data, config.tokenizer, Path(config.cache))
    return _OPEN[key]
