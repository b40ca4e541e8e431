"""metrics.jsonl: the training curve, a line for every few steps. Rank 0 writes it."""

import json
import os
from pathlib import Path
from typing import Any, TextIO

from alibi_lm.errors import UserError
from alibi_lm.machine import processes
from alibi_lm.machine.files import naming, write_atomically

Line = dict[str, Any]  # step, tokens, loss, grad_norm, lr, seconds


def read_curve(path: Path) -> list[Line]:
    """The lines of a training curve. A UserError if it is missing or damaged."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


class CurveFile:
    """The curve of a training that continues after `step` updates; later lines are cut off."""

    def __init__(self, path: Path, step: int) -> None:
        self._file: TextIO | None = None
        if not processes.is_rank_zero():
            return
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                if json.loads(line)["step"] > step:
                    break
            except ValueError:  # cut by a kill; lines up to a checkpoint were synced before it
                break
            kept.append(line + "\n")
        write_atomically(path, "".join(kept))
        self._path = path
        self._file = path.open("a", buffering=1)

    def write(self, line: Line) -> None:
        """Add a line."""
        if self._file is None:
            return
        with naming(self._path):
            self._file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """Make the lines survive a loss of power, before the checkpoint that comes after them."""
        assert self._file is not None
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        assert self._file is not None
        self._file.close()
