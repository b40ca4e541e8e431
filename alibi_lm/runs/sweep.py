"""A sweep: Hydra's multirun over runs, then one report of what they scored.

Every member is composed and checked before the first is trained, so a typo in the last one costs
nothing. Which launcher runs the members is Hydra's business. A member that fails leaves its reason
in its folder and the others continue; at the end a table says what failed and how to run it again.
"""

import itertools
import math
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alibi_lm.cli import FAILED, Composed, FailedError, compose_all, explain, start_of
from alibi_lm.config import Config, from_hydra
from alibi_lm.errors import NonfiniteError, UserError
from alibi_lm.evaluation.rows import COMPLETE, Result
from alibi_lm.machine import processes
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.interruption import listen
from alibi_lm.machine.progress import labelled, reach, say, whole
from alibi_lm.report import summary, write_report
from alibi_lm.report.tables import Table, markdown
from alibi_lm.runs.evaluate import evaluate_run
from alibi_lm.runs.folder import group
from alibi_lm.runs.plan import (
    Corpora,
    Member,
    check_folders,
    check_settings,
    open_member,
    plan_member,
)
from alibi_lm.runs.train import TRAINING, train_run
from alibi_lm.tracking import Described, track


class Sweep:
    """The task that scripts/sweep.py gives to Hydra. It travels to wherever members are run."""

    def __init__(self) -> None:
        self.members: list[Member] = []

    def check(self, composed: list[Composed]) -> None:
        """Plan every member; a UserError if any of them cannot be done."""
        corpora: Corpora = {}
        configs = compose_all(composed, Config)
        say(f"{len(configs)} {'run' if len(configs) == 1 else 'runs'}")
        for config, _ in configs:
            check_settings(config)
        for config, _ in configs:
            Path(config.output, "runs").mkdir(parents=True, exist_ok=True)
        self.members = [open_member(config, corpora, words) for config, words in configs]
        check_folders(self.members)

    def __call__(self, values: DictConfig) -> float | None:
        """Run the member whose number Hydra says.

        A sweeper that searches knows no members beforehand; it is told the mean loss of what was
        evaluated, which it makes as small as it can.
        """
        number = HydraConfig.get().job.num
        if not self.members:
            member = plan_member(from_hydra(values, Config))
            with labelled(f"[{number + 1}] "):
                run_or_note_failure(member)
            return mean_loss(member)
        with labelled(f"[{number + 1}/{len(self.members)}] "):
            run_or_note_failure(self.members[number])
        reach(sum(map(work_of, self.members[: number + 1])))
        return None

    def run(self, launch: Callable[[], Any]) -> None:
        """Launch the members, then report on all of them; `FailedError` if any failed."""
        launcher_error: Exception | None = None
        try:
            with whole(sum(map(work_of, self.members)), "sweep"):
                launch()
        except Exception as error:  # of the launcher: a member's own is noted in its folder
            say(f"the launcher failed: {type(error).__name__}: {error}")
            launcher_error = error
        processes.init()
        failed = processes.on_rank_zero(lambda: report(self.members))
        if launcher_error is not None:
            raise launcher_error
        if failed:
            raise FailedError


def work_of(member: Member) -> float:
    """The work of a member: tokens that are evaluated, or trained on at three times the price."""
    tokens = member.run.data.split(member.run.config.evaluation.split).tokens
    reads = sum(measurement.protocol.n_read(tokens) for measurement in member.wanted)
    return reads + TRAINING * member.run.training.train_tokens


def run_or_note_failure(member: Member) -> None:
    """Run a member wherever the launcher put it; if it fails, its folder says why."""
    listen()
    run = member.run
    try:
        if processes.is_rank_zero():
            run.failure.unlink(missing_ok=True)
        run_member(member)
    except Exception as error:
        reason = explain(error) or f"{type(error).__name__}: {error}"
        say(f"failed: {reason}")
        if processes.is_rank_zero():
            with suppress(OSError):  # the disk may be full, which is the reason
                run.path.mkdir(parents=True, exist_ok=True)
                write_atomically(run.failure, reason + "\n")
        if processes.world_size() > 1 and not isinstance(error, NonfiniteError):
            raise SystemExit(FAILED) from error  # the others wait for this one


def mean_loss(member: Member) -> float:
    """Of all that was wanted of a member; infinite if it failed or any of it was not scored."""
    there = {} if member.run.failure.exists() else member.run.results()
    rows = [there[m].row for m in member.wanted if m in there]
    if unscored := [row.eval_length for row in rows if row.status != COMPLETE]:
        say(f"the search takes its loss as infinite: nothing was scored at {unscored}")
    if unscored or len(rows) < len(member.wanted):
        return math.inf
    mean = sum(row.loss for row in rows) / len(rows)
    return mean if math.isfinite(mean) else math.inf


def run_member(member: Member) -> None:
    """Train and evaluate one run, each unless it is done."""
    run = member.run
    with track(run.config.tracking, run.path, run.described()) as tracker:
        train_run(run, tracker)
        evaluate_run(run, member.wanted, tracker)


def report(members: list[Member]) -> bool:
    """Print and write the report of all members, and what failed; returns whether any did."""
    results: dict[tuple[Path, Any], Result] = {}
    failed = []
    for member in members:
        folder = member.run
        try:
            there = folder.results()
        except UserError:  # its rows are damaged, as its failure says
            there = {}
        results |= {(folder.path, m): there[m] for m in member.wanted if m in there}
        if folder.failure.exists() or any(m not in there for m in member.wanted):
            failed.append(member)
    try:
        if results:
            _report_on(list(results.values()), members[0].run.training)
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
        described = Described(f"{group(config)} report", group(config), "report")
        with track(config.tracking, output, described) as tracker:
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
        folder = member.run
        why = "no result: the process was killed or is still running"
        if folder.failure.exists():
            why = folder.failure.read_text()
        log = str(folder.log) if folder.log.exists() else "none"
        body.append([folder.path.name, " ".join(why.split()), log])
    table = markdown(Table(["run", "why", "log"], body, texts=3), aligned=False)
    lines = [f"{len(failed)} of {total} runs failed:", "", table, ""]
    overrides = [list(member.overrides) for member in failed]
    lines += ["to run just these again:", *(f"  {line}" for line in commands(overrides))]
    return "\n".join(lines)


def commands(members: list[list[str]]) -> list[str]:
    """Commands for the members of these overrides: one, if they are all combinations of them."""
    choices: dict[str, list[str]] = {}
    for overrides in members:
        for override in overrides:
            key, _, value = override.partition("=")
            values = choices.setdefault(key, [])
            if value not in values:
                values.append(value)
    combinations = [
        [f"{key}={value}" for key, value in zip(choices, values, strict=True)]
        for values in itertools.product(*choices.values())
    ]
    wanted = members
    if all(combination in wanted for combination in combinations):
        wanted = [[f"{key}={','.join(values)}" for key, values in choices.items()]]
    start = start_of("sweep")
    is_script = start[0].endswith(".py")
    if processes.world_size() > 1:
        launcher = [
            "torchrun",
            f"--nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', processes.world_size())}",
        ]
        start = [*launcher, *([] if is_script else ["--no-python"]), *start]
    elif is_script:
        start = ["python", *start]
    return [shlex.join([*start, *overrides]) for overrides in wanted]
