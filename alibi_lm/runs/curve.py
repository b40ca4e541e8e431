"""metrics.jsonl: the training curve, a line for every few steps, whatever else keeps it."""

import json
import os
from pathlib import Path
from typing import Any, TextIO

from alibi_lm.errors import UserError
from alibi_lm.machine.files import naming, write_atomically

Line = dict[str, Any]  # step, tokens, loss, grad_norm, lr, seconds


def read_metrics(path: Path) -> list[Line]:
    """The lines of a training curve. A UserError if there is none or it is damaged."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


class MetricsFile:
    """The curve of a training that goes on after `step` updates; what came later is cut off."""

    def __init__(self, path: Path, step: int) -> None:
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
        self._file: TextIO = path.open("a", buffering=1)

    def write(self, line: Line) -> None:
        """Add a line."""
        with naming(self._path):
            self._file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """Have the lines survive a loss of power: before the checkpoint that comes after them."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more lines."""
        self._file.close()
