"""The embedded corpus: the sources of the running Python's standard library.

Real text (code and English) of some 12 MB that is on every user's machine. Tests and installed
packages are left out, since distributions differ in them. Held out are whole modules, picked by a
hash of their path (so that other Python versions pick alike) until each split has its size.
"""

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alibi_lm.data.corpus import SOURCES, SPLITS, Corpus, DataConfig
from alibi_lm.errors import UserError
from alibi_lm.settings import setting

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
HELD_OUT_BYTES = 200_000  # for each of validation and test, about
LARGEST_HELD_OUT = 2**16  # bytes; a larger module would be most of its split


@dataclass
class StdlibConfig(DataConfig):
    """Only its name can be set."""

    name: str = setting("stdlib", "what result rows call the data set")


@SOURCES.add("stdlib", StdlibConfig)
def load_stdlib(config: StdlibConfig) -> Corpus:
    """The standard library's modules, one document each."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [
        path
        for path in sorted(root.rglob("*.py"))
        if not LEFT_OUT.intersection(path.relative_to(root).parts)
    ]
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    sizes = dict.fromkeys(SPLITS, 0)
    for path in sorted(paths, key=lambda path: _draw(path.relative_to(root))):
        size = path.stat().st_size
        may_hold_out = size <= LARGEST_HELD_OUT
        split = next(
            (s for s in ("validation", "test") if may_hold_out and sizes[s] < HELD_OUT_BYTES),
            "train",
        )
        files[split].append(path)
        sizes[split] += size
    if sizes["train"] < HELD_OUT_BYTES:
        raise UserError(
            f"data=stdlib: found too few Python sources under {root}; this Python comes without "
            "them. Give text of your own: data=text 'data.train=[FILES]' data.held_out=0.05"
        )

    def documents(paths: list[Path]) -> Iterator[str]:
        for path in sorted(paths):
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # a few old modules are in Latin-1
                yield path.read_text(encoding="latin-1")

    return Corpus(config.name, {split: partial(documents, files[split]) for split in SPLITS})


def _draw(relative: Path) -> bytes:
    return hashlib.sha256(relative.as_posix().encode()).digest()
