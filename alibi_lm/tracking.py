"""Weights & Biases gets a copy of what the run folder holds, and never more than a copy.

A run folder has one W&B run, whose id it keeps (tracking.json), so whatever continues the run
continues its curve. W&B's step is the number of updates and, after them, of results; it never goes
back, because the last one that was logged is kept too. No failure here stops a run.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alibi_lm.evaluation.rows import COMPLETE, Row
from alibi_lm.machine import processes
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.progress import say
from alibi_lm.settings import setting

MODES = ("offline", "online", "off")  # offline: kept in the run folder, for `wandb sync`
FINISH_SECONDS = 60  # to send what is left at the end
LONGEST_TAG = 64  # letters that W&B takes
LENGTH = "extrapolation/length"  # x axis of every curve over evaluation lengths


@dataclass
class TrackingConfig:
    """What Weights & Biases gets of a run; metrics.jsonl and results.jsonl hold it anyway."""

    mode: str = setting("offline", "offline needs no account", choices=MODES)
    project: str = setting("alibi_lm", "W&B project")
    entity: str | None = setting(None, "W&B user or team; null: your default")
    group: str | None = setting(None, "group of runs; null: the name of the output folder")
    tags: list[str] = setting([], "tags beside those of scheme, data and length")

    def problems(self) -> list[str]:
        """The project must have a name."""
        if not self.project:
            return ["tracking.project: given '', but it must name a W&B project"]
        return []


@dataclass(frozen=True)
class Described:
    """How a W&B run is described: its name, its group, its tags and its configuration."""

    name: str
    group: str
    job_type: str
    tags: tuple[str, ...] = ()
    config: dict[str, Any] | None = None


def curve_name(curve: str, metric: str) -> str:
    """What W&B calls a metric's curve over evaluation lengths."""
    return f"extrapolation/{curve}/{metric}"


class Tracker:
    """Does nothing: used with tracking=off and on ranks other than 0."""

    def describe(self, facts: dict[str, Any]) -> None:
        """Add facts to the run's configuration."""

    def metrics(self, line: dict[str, Any]) -> None:
        """Log a line of the training curve."""

    def result(self, row: Row) -> None:
        """Log one more point of the extrapolation curve."""

    def results(self, rows: Sequence[Row]) -> None:
        """Log the results that are not logged yet, then all of them as a table."""

    def table(self, rows: Sequence[Row]) -> None:
        """Log results as a table."""

    def figure(self, path: Path) -> None:
        """Log a figure."""

    def close(self, status: int) -> None:
        """End the W&B run; a status other than 0 marks it as failed."""


NO_TRACKING = Tracker()


class WandbTracker(Tracker):
    """Logs to Weights & Biases. Its W&B run begins with the first thing to log."""

    def __init__(self, settings: TrackingConfig, folder: Path, described: Described) -> None:
        self.settings, self.folder, self.described = settings, folder, described
        self.run: Any = None
        self.works = True

    def describe(self, facts: dict[str, Any]) -> None:
        """Add to the run's configuration."""
        self._try(lambda: self._run().config.update(facts, allow_val_change=True))

    def metrics(self, line: dict[str, Any]) -> None:
        """A step that was logged before the run was killed is not logged again."""
        told = {f"train/{key}": value for key, value in line.items() if key != "step"}
        self._try(lambda: self._log(told, line["step"]))

    def result(self, row: Row) -> None:
        """Every metric over the evaluation length, a curve for each protocol."""
        if row.status != COMPLETE:
            return
        names = ("loss", "ppl", "word_ppl", "bpb")
        values = {name: getattr(row, name) for name in names}
        curve = row.measurement.curve
        told = {curve_name(curve, name): v for name, v in values.items() if v is not None}

        def tell() -> None:
            logged, label = self._kept()["results"], row.measurement.label
            if logged.get(label) != _digest([row]):  # new, or another result than before
                logged[label] = _digest([row])
                self._log({LENGTH: row.eval_length} | told, results=logged)

        self._try(tell)

    def results(self, rows: Sequence[Row]) -> None:
        """A kill may have come between a result and its logging."""

        def tell() -> None:
            for row in rows:
                self.result(row)
            if rows and self._kept()["table"] != _digest(rows):
                self.table(rows)

        self._try(tell)

    def table(self, rows: Sequence[Row]) -> None:
        """A table of W&B's own, with the columns of results.csv."""

        def tell() -> None:
            import wandb

            columns: list[str | int] = list(asdict(rows[0]))
            data = [list(asdict(row).values()) for row in rows]
            self._log({"results": wandb.Table(columns=columns, data=data)}, table=_digest(rows))

        self._try(tell)

    def figure(self, path: Path) -> None:
        """An image under its file's name."""

        def tell() -> None:
            import wandb

            self._log({path.stem: wandb.Image(str(path))})

        self._try(tell)

    def close(self, status: int) -> None:
        """Write out, or send, what is left."""
        if self.run is not None:
            self.works = True  # even after a failure: W&B must know that the run ended
            self._try(lambda: self.run.finish(exit_code=status))

    def _log(self, values: dict[str, Any], step: int | None = None, **told: Any) -> None:
        """Log values at a step, by default the next; keep that step and what else was logged."""
        run, kept = self._run(), self._kept()
        step = kept["step"] + 1 if step is None else step
        if step > kept["step"]:
            write_atomically(self._file, json.dumps(kept | {"step": step} | told) + "\n")
            run.log(values, step=step)

    def _run(self) -> Any:
        if self.run is None:
            self.run = self._begin()
        return self.run

    def _begin(self) -> Any:
        import wandb

        settings, described = self.settings, self.described
        # `wandb agent` names one W&B run for a whole command; ours are one for each run folder.
        for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
            os.environ.pop(name, None)
        run = wandb.init(
            mode=settings.mode,  # type: ignore[arg-type]
            project=settings.project,
            entity=settings.entity,
            group=described.group,
            job_type=described.job_type,
            name=described.name,
            tags=[tag[:LONGEST_TAG] for tag in (*described.tags, *settings.tags)],
            config=described.config,
            id=self._kept()["id"],
            resume="allow",
            reinit="finish_previous",
            dir=str(self.folder),
            settings=wandb.Settings(
                silent=True,
                console="off",
                # Sending may stall forever; writing does not.
                finish_timeout=FINISH_SECONDS if settings.mode == "online" else 0,
            ),
        )
        if run.id != self._kept()["id"]:  # settings of W&B's own may decide it
            write_atomically(self._file, json.dumps(self._kept() | {"id": run.id}) + "\n")
        run.define_metric(LENGTH, hidden=True)
        run.define_metric("extrapolation/*", step_metric=LENGTH)
        return run

    @property
    def _file(self) -> Path:
        return self.folder / "tracking.json"

    def _kept(self) -> dict[str, Any]:
        """The W&B run's id, and what was logged: the last step, digests of results and table."""
        new = {"id": secrets.token_hex(4), "step": 0, "results": {}, "table": ""}
        if not self._file.exists():
            write_atomically(self._file, json.dumps(new) + "\n")
        kept: dict[str, Any] = json.loads(self._file.read_text())
        return new | kept

    def _try(self, action: Callable[[], object]) -> None:
        """Do it; when W&B fails, say so once and stop logging."""
        if not self.works:
            return
        try:
            action()
        except ImportError:
            self._give_up("wandb is not installed: pip install -r requirements.txt")
        except Exception as error:
            self._give_up(" ".join(str(error).split()))

    def _give_up(self, reason: str) -> None:
        self.works = False
        say(f"warning: W&B tracking failed: {reason}; the run continues (tracking=off stops this)")


def _is_disabled() -> bool:
    """Whether W&B's own variables switch it off."""
    disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on")
    return disabled or os.environ.get("WANDB_MODE", "").lower() == "disabled"


def _digest(rows: Sequence[Row]) -> str:
    """Tells results from others, however long they took and whichever code computed them."""
    of_no_account = {"seconds": 0.0, "commit": None, "dirty": None}
    values = [asdict(row) | of_no_account for row in rows]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


@contextmanager
def track(settings: TrackingConfig, folder: Path, described: Described) -> Iterator[Tracker]:
    """The tracker of a folder, closed at the end."""
    off = settings.mode == "off" or not processes.is_rank_zero() or _is_disabled()
    tracker = NO_TRACKING if off else WandbTracker(settings, folder, described)
    status = 1
    try:
        yield tracker
        status = 0
    finally:
        tracker.close(status)
