"""Rows of results: one for each model and evaluation length, with all that is needed to trust it.

Beside the rows of a run lie the losses of the tokens that were scored, in the order of the text;
loss by position and intervals are made from them. No torch: reports read results and nothing else.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Protocol
from alibi_lm.machine.files import write_atomically

COMPLETE = "complete"
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Row:
    """One measurement. Losses are in nats per token, summed in float64 over all scored tokens."""

    position: str  # the positional scheme
    train_length: int  # L in the paper
    eval_length: int  # L_valid in the paper; same_targets: tokens of context
    protocol: str  # nonoverlapping, sliding or same_targets
    stride: int | None  # new tokens per window; nonoverlapping: the length; same_targets: none
    seed: int
    dataset: str
    split: str
    tokenizer: str
    tokens: int  # targets scored (where memory ran out: to be scored), the same at every length
    words: int  # words between white space, and line ends, of the split's text
    bytes: int  # of the split's text in UTF-8
    loss: float  # mean over tokens
    ppl: float  # exp(loss)
    word_ppl: float  # exp(total loss of the split / words): compares across tokenizers
    bpb: float  # bits per byte: total loss of the split / ln 2 / bytes
    nonfinite: int  # tokens whose loss is infinite or no number
    status: str  # complete, or out of memory: then nothing was scored
    window: int | None  # keys that a query saw at most; none: all before it
    variant: str  # the scheme's settings that are not its defaults
    n_parameters: int
    vocab_size: int
    train_tokens: int
    dtype: str
    backend: str  # how attention was computed
    device: str
    seconds: float  # that the evaluation took
    data_hash: str
    tokenizer_hash: str
    commit: str | None  # of the code that evaluated
    dirty: bool | None  # whether tracked files differed from it
    torch: str
    settings: str  # of model and training, all but scheme, training length and seed
    recipe: str  # hash of those and of the text: rows of one recipe are comparable
    run: str  # the run folder's name

    @property
    def what(self) -> Protocol:
        """What was measured of the run: no two rows of a run agree in it."""
        sampled = self.protocol == "same_targets"
        return Protocol(
            self.protocol,
            self.eval_length,
            self.split,
            stride=self.stride,
            sample=self.tokens if sampled else None,
            window=self.window,
        )


@dataclass(frozen=True)
class Result:
    """A row, and where the losses of its tokens are, if they are there."""

    row: Row
    losses_file: Path | None = None

    def losses(self) -> npt.NDArray[np.float64] | None:
        """The loss of each scored token in the order of the text; None if they were not kept.

        A UserError if the file does not belong to the row.
        """
        if self.losses_file is None:
            return None
        try:
            losses: npt.NDArray[np.float64] = np.load(self.losses_file).astype(np.float64)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.losses_file} is damaged: {error}") from error
        mean = float(losses.mean())
        same = math.isclose(mean, self.row.loss, rel_tol=1e-9)  # machines add in other orders
        if not same and not (math.isnan(mean) and math.isnan(self.row.loss)):
            raise UserError(
                f"{self.losses_file} does not belong to its row: its mean loss is {mean}, the "
                f"row's {self.row.loss}; remove the file or evaluate anew"
            )
        return losses


def perplexity(loss: float) -> float:
    """exp(loss), infinite where it overflows."""
    return math.exp(loss) if loss < 700 else loss * math.inf


class Metrics(NamedTuple):
    """What a row says of its loss."""

    loss: float
    ppl: float
    word_ppl: float
    bpb: float


def metrics(loss: float, tokens: int, words: int, n_bytes: int) -> Metrics:
    """The metrics that follow from a mean loss (nats) over a split of that many tokens."""
    return Metrics(
        loss=loss,
        ppl=perplexity(loss),
        word_ppl=perplexity(loss * tokens / words),
        bpb=loss * tokens / math.log(2) / n_bytes,
    )


def losses_file(run: Path, what: Protocol) -> Path:
    """Where a run folder keeps the token losses of a result."""
    return run / "losses" / f"{what.label}.npy"


def read_results(path: Path) -> list[Result]:
    """The results in a results.jsonl or results.csv, or in the folder of a run, sweep or report.

    A sweep's folder gives all that its runs scored, by whatever command; a run that is not yet
    evaluated gives none.
    """
    if path.is_dir():
        if found := sorted((path / "runs").glob("*/results.jsonl")):
            return [result for file in found for result in read_results(file)]
        run, report = path / "results.jsonl", path / "results.csv"
        if (path / "manifest.json").exists() and not run.exists():
            return []
        path = report if report.exists() else run
    rows = read_rows(path)

    def find(row: Row) -> Path | None:
        for run in (path.parent, path.parent / "runs" / row.run):
            file = losses_file(run, row.what)
            if file.exists():
                return file
        return None

    return [Result(row, find(row)) for row in rows]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that `write_jsonl` or `write_csv` wrote."""
    read: list[Row] = read_rows_of(Row, path, "results")
    return read


def read_rows_of(kind: Any, path: Path, what: str) -> list[Any]:
    """The rows of a CSV or JSON lines file as that dataclass; `what` they are, for the error."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            return [kind(**_parsed(kind, line)) for line in csv.DictReader(io.StringIO(text))]
        return [kind(**json.loads(line)) for line in text.splitlines()]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} does not hold rows of {what} as this version writes them: {error}"
        ) from error


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file by these rows, a JSON object each."""
    write_atomically(path, "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file by these rows under a line of column names."""
    write_atomically(path, csv_text(rows))


def csv_text(rows: Iterable[Any], kind: Any = Row) -> str:
    """The rows, of that dataclass, as CSV under a line of column names."""
    text = io.StringIO(newline="")
    columns = [field.name for field in dataclasses.fields(kind)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return text.getvalue()


def _parsed(kind: Any, line: dict[str, str]) -> dict[str, Any]:
    """The values of a line of CSV, which knows only text; the dataclass knows the types."""
    read: dict[str, Any] = {
        "int": int,
        "int | None": lambda text: int(text) if text else None,
        "float": float,
        "float | None": lambda text: float(text) if text else None,
        "str": str,
        "str | None": lambda text: text or None,
        "bool": {"True": True, "False": False}.__getitem__,
        "bool | None": lambda text: {"True": True, "False": False}.get(text),
    }
    fields = dataclasses.fields(kind)
    types = {field.name: getattr(field.type, "__name__", str(field.type)) for field in fields}
    return {name: read[type_](line[name]) for name, type_ in types.items()}
