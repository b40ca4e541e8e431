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
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alibi_lm.cli import (
    FAILED,
    check_overrides,
    explain,
    help_text,
    run_cleanly,
    run_hydra,
    wants_help,
)
from alibi_lm.config import Config, from_hydra
from alibi_lm.errors import NonfiniteError, UserError
from alibi_lm.evaluation.rows import Result
from alibi_lm.machine import processes
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.interruption import listen
from alibi_lm.machine.progress import say
from alibi_lm.markdown import Table, markdown
from alibi_lm.report import summary, write_report
from alibi_lm.runs.evaluate import (
    evaluate_run,
    evaluation_dtype,
    missing_results,
    protocols,
)
from alibi_lm.runs.folder import Run, find_run
from alibi_lm.runs.plan import Member, _prepared, check_members, plan
from alibi_lm.runs.tracking import track
from alibi_lm.runs.train import train_run


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
