"""What Weights & Biases is told: a copy of what the run folder holds, and never more than a copy.

A run folder has one W&B run, whose id it keeps (tracking.json), so whatever goes on with the run
goes on with the curve. W&B's step is the count of updates and, after them, of results; it never
goes back, since the last one that was told is kept too. Nothing that fails here stops a run.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alibi_lm.config import Config, to_dict
from alibi_lm.evaluation.rows import COMPLETE, Row
from alibi_lm.machine import processes
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.progress import say
from alibi_lm.runs.curve import Line

FINISH_SECONDS = 60  # to send what is left at the end
LENGTH = "extrapolation/length"  # x axis of every curve over evaluation lengths


def curve_name(curve: str, metric: str) -> str:
    """What W&B calls a metric's curve over evaluation lengths."""
    return f"extrapolation/{curve}/{metric}"


class Tracker:
    """Tells nobody: `tracking=off`, and every process but the first."""

    def describe(self, facts: dict[str, Any]) -> None:
        """Add to the run's configuration what its settings do not say."""

    def metrics(self, line: Line) -> None:
        """Tell a line of the training curve."""

    def result(self, row: Row) -> None:
        """Tell one more point of the extrapolation curve."""

    def results(self, rows: Sequence[Row]) -> None:
        """Tell what of a run's results is yet untold, then all of them as a table."""

    def table(self, rows: Sequence[Row]) -> None:
        """Tell results as a table."""

    def figure(self, path: Path) -> None:
        """Tell a figure."""

    def close(self, status: int) -> None:
        """Nothing comes after; a status other than 0 says that the run failed."""


NOBODY = Tracker()


class WandbTracker(Tracker):
    """Tells Weights & Biases. Its run begins with the first thing there is to tell."""

    def __init__(self, config: Config, folder: Path, job_type: str) -> None:
        self.config, self.folder, self.job_type = config, folder, job_type
        self.run: Any = None
        self.works = True

    def describe(self, facts: dict[str, Any]) -> None:
        """Add to the run's configuration."""
        self._try(lambda: self._run().config.update(facts, allow_val_change=True))

    def metrics(self, line: Line) -> None:
        """A step that was told before (the run was killed after it) is not told again."""
        told = {f"train/{key}": value for key, value in line.items() if key != "step"}
        self._try(lambda: self._log(told, line["step"]))

    def result(self, row: Row) -> None:
        """Every metric over the evaluation length, a curve for each protocol."""
        if row.status != COMPLETE:
            return
        names = ("loss", "ppl", "word_ppl", "bpb")
        told = {curve_name(row.what.curve, name): getattr(row, name) for name in names}

        def tell() -> None:
            labels = self._kept()["told"]
            if row.what.label not in labels:
                self._log({LENGTH: row.eval_length} | told, told=[*labels, row.what.label])

        self._try(tell)

    def results(self, rows: Sequence[Row]) -> None:
        """A kill may have come between a result and its telling."""

        def tell() -> None:
            for row in rows:
                self.result(row)
            if rows and self._kept()["rows"] != len(rows):
                self.table(rows)

        self._try(tell)

    def table(self, rows: Sequence[Row]) -> None:
        """A table of W&B's own, with the columns of results.csv."""

        def tell() -> None:
            import wandb

            columns: list[str | int] = list(asdict(rows[0]))
            data = [list(asdict(row).values()) for row in rows]
            self._log({"results": wandb.Table(columns=columns, data=data)}, rows=len(rows))

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
            self.works = True  # whatever failed before, W&B must not think that it goes on
            self._try(lambda: self.run.finish(exit_code=status))

    def _log(self, values: dict[str, Any], step: int | None = None, **told: Any) -> None:
        """Tell values at a step, by default the next; keep that step and what else was told."""
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

        config, tracking = self.config, self.config.tracking
        run = wandb.init(
            mode=tracking.mode,  # type: ignore[arg-type]
            project=tracking.project,
            entity=tracking.entity,
            group=group(config),
            job_type=self.job_type,
            name=self.folder.name if self.job_type == "train" else f"{group(config)} report",
            tags=self._tags(),
            config=to_dict(config) if self.job_type == "train" else None,
            id=self._kept()["id"],
            resume="allow",
            reinit="finish_previous",
            dir=str(self.folder),
            settings=wandb.Settings(
                silent=True,
                console="off",
                # Sending may stall for ever; writing does not.
                finish_timeout=FINISH_SECONDS if tracking.mode == "online" else 0,
            ),
        )
        run.define_metric(LENGTH, hidden=True)
        run.define_metric("extrapolation/*", step_metric=LENGTH)
        return run

    def _tags(self) -> list[str]:
        config = self.config
        own = [config.position.name, config.data.name, f"L{config.train_length}"]
        return [*(own if self.job_type == "train" else []), *config.tracking.tags]

    @property
    def _file(self) -> Path:
        return self.folder / "tracking.json"

    def _kept(self) -> dict[str, Any]:
        """The W&B run's id, and what it was told: the last step, results, rows of the table."""
        if not self._file.exists():
            new = {"id": secrets.token_hex(4), "step": 0, "told": [], "rows": 0}
            write_atomically(self._file, json.dumps(new) + "\n")
        kept: dict[str, Any] = json.loads(self._file.read_text())
        return kept

    def _try(self, action: Callable[[], object]) -> None:
        """Do it; the first time that W&B fails, say so and leave it alone from then on."""
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
        say(f"warning: no tracking by W&B: {reason}; the run goes on (tracking=off: without it)")


def group(config: Config) -> str:
    """The group of the runs of a sweep: by default the name of their output folder."""
    return config.tracking.group or Path(config.output).resolve().name


@contextmanager
def track(config: Config, folder: Path, job_type: str = "train") -> Iterator[Tracker]:
    """The tracker of a run's folder, or of a sweep's with job_type report, closed at the end."""
    off = config.tracking.mode == "off" or not processes.is_first()
    tracker = Tracker() if off else WandbTracker(config, folder, job_type)
    status = 1
    try:
        yield tracker
        status = 0
    finally:
        tracker.close(status)
