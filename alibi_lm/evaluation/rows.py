"""Rows of results: one for each run and measurement, with all that is needed to trust it.

Beside the rows of a run lie the losses of the tokens that were scored, in the order of the text;
loss by position and intervals are made from them. No torch: reports read results and nothing else.
"""

import csv
import dataclasses
import io
import json
import math
import os
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Measurement, protocol_named
from alibi_lm.machine.files import naming, write_atomically
from alibi_lm.settings import default_of

COMPLETE = "complete"
OUT_OF_MEMORY = "out of memory"
REFUSED = "refused"  # the model cannot read texts of that length


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. Losses are in nats per token, summed in float64 over all scored tokens.

    A new column has a default, so that rows of earlier versions can be read.
    """

    position: str  # the positional scheme
    train_length: int  # L in the paper
    eval_length: int  # L_valid in the paper; same_targets: tokens of context
    protocol: str  # its registered name
    stride: int | None  # new tokens per window; nonoverlapping: the length
    seed: int
    dataset: str
    split: str
    tokenizer: str
    tokens: int  # targets scored (or to be scored, if memory ran out), the same at every length
    words: int  # words between white space, and line ends, of the split's text
    bytes: int  # of the split's text in UTF-8
    loss: float  # mean over tokens
    ppl: float  # exp(loss)
    word_ppl: float | None  # exp(total loss of the split / words): compares across tokenizers
    bpb: float | None  # bits per byte: total loss of the split / ln 2 / bytes; None as word_ppl
    nonfinite: int  # tokens whose loss is infinite or NaN
    status: str = COMPLETE  # complete; or out of memory, refused: then nothing was scored
    window: int | None = None  # keys that a query saw at most; None: all before it
    variant: str = ""  # the scheme's settings that are not its defaults
    n_parameters: int
    vocab_size: int
    train_tokens: int | None  # None where it is not known
    dtype: str  # of the evaluation
    backend: str  # how attention was computed
    device: str
    seconds: float  # that the evaluation took
    data_hash: str
    tokenizer_hash: str
    commit: str | None  # of the code that evaluated
    dirty: bool | None  # whether tracked files differed from it
    torch: str
    settings: str = (
        ""  # of model and training that are not defaults; not scheme, train_length, seed
    )
    recipe: str  # hash of all those and of the text: rows of one recipe are comparable
    run: str  # the run folder's name
    sample: int | None = None  # same_targets: how many targets were drawn
    changes: str = ""  # settings changed for this evaluation alone
    # Share of the split's bytes in lines that its tokens do not give back: if it is not 0, word_ppl
    # and bpb would be of another text, and are None. None in rows of earlier versions.
    lost: float | None = None
    identity: str = ""  # hash of all that decides the run's weights
    reason: str = ""  # why it was refused
    bos: str = "none"  # where a beginning-of-text token stood: none, start, or (every) window
    prefix_consistent: bool = True  # False: what a token gets depends on the length of the window

    @property
    def measurement(self) -> Measurement:
        """What was measured of the run: no two rows of a run agree in it."""
        protocol = protocol_named(
            self.protocol,
            length=self.eval_length,
            stride=self.stride,
            sample=self.sample,
            bos=self.bos,
        )
        return Measurement(
            protocol, self.split, self.data_hash, self.dtype, self.window, self.changes
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
                f"row's {self.row.loss}; remove the file or evaluate again"
            )
        return losses


def perplexity(loss: float) -> float:
    """exp(loss), infinite where it overflows."""
    return math.exp(loss) if loss < 700 else loss * math.inf


class Metrics(NamedTuple):
    """The metrics of a row."""

    loss: float
    ppl: float
    word_ppl: float | None
    bpb: float | None


def metrics(loss: float, tokens: int, words: int, n_bytes: int, lost: float = 0) -> Metrics:
    """The metrics that follow from a mean loss (nats) over a split of that many tokens.

    lost: share of the text that the tokens do not give back. If it is not 0, they are the tokens of
    another text, and nothing per word or byte of this one follows.
    """
    if lost:
        return Metrics(loss, perplexity(loss), None, None)
    return Metrics(
        loss=loss,
        ppl=perplexity(loss),
        word_ppl=perplexity(loss * tokens / words),
        bpb=loss * tokens / math.log(2) / n_bytes,
    )


def losses_file(run: Path, measurement: Measurement) -> Path:
    """Where a run folder keeps the token losses of a result."""
    return run / "losses" / f"{measurement.label}.npy"


def read_results(path: Path) -> list[Result]:
    """The results in a results.jsonl or results.csv, or in the folder of a run, sweep or report.

    A sweep's folder gives all results of its runs, whichever command computed them; a run that is
    not yet evaluated gives none. Of several rows of one measurement the last one counts.
    """
    if path.is_dir():
        if found := sorted((path / "runs").glob("*/results.jsonl")):
            return [result for file in found for result in read_results(file)]
        run, report = path / "results.jsonl", path / "results.csv"
        if (path / "manifest.json").exists() and not run.exists():
            return []
        if not (run.exists() or report.exists()):
            raise UserError(f"{path} holds no results; evaluate its runs with scripts/evaluate.py")
        path = report if report.exists() else run
    newest = {
        (row.run, row.identity, row.measurement): row for row in read_rows(path, Row, "results")
    }

    def find(row: Row) -> Path | None:
        for run in (path.parent, path.parent / "runs" / row.run):
            file = losses_file(run, row.measurement)
            if file.exists():
                return file
        return None

    return [Result(row, find(row)) for row in newest.values()]


def read_rows(path: Path, kind: type[Any], what: str) -> list[Any]:
    """The rows of a CSV or JSON lines file as that dataclass; `what` they are, for the error.

    Columns that a file of an earlier version lacks have their defaults.
    """
    try:
        rows: list[Any] = []
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin with a byte order mark
        if path.suffix == ".csv":
            types = typing.get_type_hints(kind)
            table = csv.DictReader(io.StringIO(text), strict=True)
            _check_columns(table.fieldnames or [], kind)
            for row in table:
                if None in row or None in row.values():
                    raise ValueError(f"line {table.line_num} has not a cell for each column")
                rows.append(kind(**{k: _parsed(k, v, types[k]) for k, v in row.items()}))
            return rows
        for line in text.split("\n")[:-1]:  # one that a kill cut short has no end: no row
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError(f"{line[:40]!r} is no row")
            _check_columns(values, kind)
            rows.append(kind(**values))
        return rows
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} does not hold rows of {what}: {error}") from error


def _check_columns(given: Iterable[str], kind: type[Any]) -> None:
    """A ValueError if columns lack that have no default, or are unknown."""
    fields, given = dataclasses.fields(kind), list(given)
    needed = [f.name for f in fields if default_of(f) is dataclasses.MISSING]
    if absent := [name for name in needed if name not in given]:
        wide = next((name for name in given if re.search("[;\t]", name)), None)
        hint = "; save it with commas between columns" if wide else f"; it has {', '.join(given)}"
        raise ValueError(f"no column {absent[0]}{hint}")
    if surplus := sorted(set(given) - {f.name for f in fields}):
        raise ValueError(f"this version knows no column {', '.join(map(repr, surplus))}")


def _parsed(column: str, text: str, type_: Any) -> Any:
    """A value of CSV, which knows only text."""
    options = typing.get_args(type_) or (type_,)
    if type(None) in options and not text:
        return None
    try:
        if bool in options:
            return {"TRUE": True, "FALSE": False}[text.upper()]
        return options[0](text)
    except (KeyError, ValueError) as error:
        raise ValueError(f"column {column} holds {text!r}") from error


def append_row(path: Path, row: Row) -> None:
    """Add a row to a file of JSON lines; a line that a kill cut short is removed first."""
    with naming(path), path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(dataclasses.asdict(row)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


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
