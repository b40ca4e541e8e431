"""Rows of a benchmark: one for each library, scheme, length and phase. No torch, for reports."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from alibi_lm.evaluation.rows import COMPLETE, csv_text, read_rows

PHASES = TRAINING, EVALUATION = ("training", "evaluation")
OURS = "alibi_lm"


@dataclass(frozen=True)
class Speed:
    """One measurement: medians over the rounds. Where memory ran out, its numbers are missing."""

    library: str  # whose model: alibi_lm, or a peer
    position: str
    length: int  # tokens of a sequence
    phase: str  # training: a step with its update; evaluation: scoring a stream
    dtype: str
    backend: str  # how attention was computed
    status: str  # complete, or out of memory
    tokens: int  # of one round
    rounds: int
    seconds: float | None  # of one round
    tokens_per_second: float | None
    time_ratio: float | None  # to `none` of alibi_lm, in the same rounds
    time_ratio_to_ours: float | None  # peers: to the same scheme of alibi_lm, in the same rounds
    peak_memory_bytes: int | None  # weights, optimizer's state and what a round adds at its peak
    memory_ratio: float | None  # to `none` of alibi_lm
    flops_per_second: float | None  # matrix products of the model alone
    limit_flops_per_second: float  # what the machine can do in matrix products
    limit: str  # where that is from: measured in the same rounds, or a data sheet
    share: float | None  # of that limit
    first_step_seconds: float | None  # with compile=true mostly the compiler's, unless cached
    compile: bool
    checkpointing: bool
    n_parameters: int
    vocab_size: int
    model: str  # its sizes
    device: str
    cpu: str
    threads: int
    torch: str
    version: str  # of the library; alibi_lm's is its commit
    dirty: bool | None

    @property
    def is_complete(self) -> bool:
        """Whether there are numbers."""
        return self.status == COMPLETE


def speeds_csv(rows: Iterable[Speed]) -> str:
    """The rows as CSV under a line of column names."""
    return csv_text(rows, Speed)


def read_speeds(path: Path) -> list[Speed]:
    """The rows of a benchmark's results.csv, or of the folder that it lies in."""
    path = path / "results.csv" if path.is_dir() else path
    read: list[Speed] = read_rows(path, Speed, "a benchmark")
    return read
