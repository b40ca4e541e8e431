"""Rows of results: one for each model and evaluation length, with all that is needed to trust it.

Needs no torch: reports read rows and nothing else.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alibi_lm.errors import UserError
from alibi_lm.files import write_atomically


@dataclass(frozen=True)
class Row:
    """One measurement. Losses are in nats per token, summed in float64 over all tokens."""

    position: str  # the positional scheme
    train_length: int  # L in the paper
    eval_length: int  # L_valid in the paper
    protocol: str  # nonoverlapping or sliding
    stride: int  # new tokens per window; nonoverlapping: the length
    seed: int
    dataset: str
    split: str
    tokenizer: str
    tokens: int  # targets scored, each once; the same at every length
    words: int  # words between white space, and line ends, of the split's text
    bytes: int  # of the split's text in UTF-8
    loss: float  # mean over tokens
    ppl: float  # exp(loss)
    word_ppl: float  # exp(total loss / words): compares across tokenizers
    bpb: float  # bits per byte: total loss / ln 2 / bytes
    nonfinite: int  # tokens whose loss is infinite or no number
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
    recipe: str  # hash of all other settings: equal where only scheme, lengths and seed differ
    run: str  # the run folder's name

    @property
    def what(self) -> tuple[int, str, int, str]:
        """What was measured of the run: no two rows of a run agree in it."""
        return self.eval_length, self.protocol, self.stride, self.split


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def metrics(nll: float, tokens: int, words: int, n_bytes: int) -> dict[str, float]:
    """The metrics that follow from a total loss (nats). Infinite where exp overflows."""

    def exp(x: float) -> float:
        return math.exp(x) if x < 700 else x * math.inf

    return {
        "loss": nll / tokens,
        "ppl": exp(nll / tokens),
        "word_ppl": exp(nll / words),
        "bpb": nll / math.log(2) / n_bytes,
    }


def read_rows(path: Path) -> list[Row]:
    """The rows of a results.jsonl or results.csv, or of the folder of a run or a sweep."""
    if path.is_dir():
        sweep, run = path / "results.csv", path / "results.jsonl"
        path = sweep if sweep.exists() else run
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            return [_from_csv(values) for values in csv.DictReader(io.StringIO(text))]
        return [Row(**json.loads(line)) for line in text.splitlines()]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} does not hold rows of results: {error}") from error


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file by these rows, a JSON object each."""
    write_atomically(path, "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file by these rows under a line of column names."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_atomically(path, text.getvalue())


def _from_csv(values: dict[str, str]) -> Row:
    """CSV knows only text; the dataclass knows the types."""
    read: dict[str, Any] = {
        "int": int,
        "float": float,
        "str": str,
        "str | None": lambda text: text or None,
        "bool | None": lambda text: {"True": True, "False": False}.get(text),
    }
    types = {field.name: getattr(field.type, "__name__", str(field.type)) for field in _FIELDS}
    return Row(**{name: read[types[name]](values[name]) for name in COLUMNS})


_FIELDS = dataclasses.fields(Row)
