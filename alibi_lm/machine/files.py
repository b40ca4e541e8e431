"""Writing files so that none is ever seen half-written."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What is being written is called `.NAME.RANDOM.partial`; a killed process may leave one behind.
PARTIAL = ".partial"
UMASK = os.umask(0)  # the only way to ask for it
os.umask(UMASK)


def folder_name(words: str) -> str:
    """The words as a name that a folder can have: `owner/name` becomes `owner-name`."""
    return re.sub(r"[^\w.+]+", "-", words).strip("-.") or "unnamed"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have what the system refuses (disk full, folder gone) name the file that it was about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write to a temporary name beside the file, sync, rename, sync the folder.

    An OSError names the file and leaves what was there as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with naming(path):
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~UMASK)  # mkstemp ignores it
            Path(temporary).replace(path)
            sync_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder, too, survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed writer left in a folder or below; no other may be writing there."""
    for file in folder.rglob(f".*{PARTIAL}"):
        file.unlink(missing_ok=True)
