"""Reading back what W&B keeps of an offline run: records in LevelDB's log format."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7  # bytes; each record: checksum, length (2), kind (1), data
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # a record that crosses blocks comes in parts


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    if not content:
        return
    assert content[:4] == b":W&B"
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # the block's end is filled up
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + HEADER])
        if kind == 0:
            break
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def read(folder: Path) -> dict[str, Any]:
    """Settings, metrics' definitions and history of all offline runs in a folder, in order.

    W&B's own process writes them, and may still do so when ours goes on; the last record says that
    a run has ended.
    """
    deadline = time.monotonic() + 30
    while True:
        found = _read(folder)
        parts = len(list(folder.glob("wandb/offline-run-*")))
        if len(found["exit"]) == parts or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"runs": [], "history": [], "axes": {}, "exit": []}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                config = {u.key: json.loads(u.value_json) for u in record.run.config.update}
                found["runs"].append((record.run, config))
            elif kind == "config":
                _, config = found["runs"][-1]
                config |= {u.key: json.loads(u.value_json) for u in record.config.update}
            elif kind == "history":
                line = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                found["history"].append(line)
            elif kind == "metric":
                name = record.metric.glob_name or record.metric.name
                found["axes"][name] = record.metric.step_metric
            elif kind == "exit":
                found["exit"].append(record.exit.exit_code)
    return found
