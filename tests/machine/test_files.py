import errno
import os
from pathlib import Path

import pytest

from alibi_lm.machine.files import remove_partial_files, write_atomically


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_names_the_file_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "gone" / "file", "x")
    assert (caught.value.errno, caught.value.filename) == (
        errno.ENOENT,
        str(tmp_path / "gone" / "file"),
    )
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    left = [tmp_path / ".model.abc.partial", tmp_path / "below" / ".x.def.partial"]
    kept = [tmp_path / "model", tmp_path / ".lock", tmp_path / "mine.partial"]
    for path in (*left, *kept):
        path.touch()
    remove_partial_files(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)
