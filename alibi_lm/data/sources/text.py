"""A corpus of the user's own text files: one document a file, UTF-8."""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alibi_lm.data.corpus import SOURCES, Corpus, DataConfig, Documents
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.settings import setting

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
MOST_NULS = 0.1  # share of the bytes


@dataclass
class TextConfig(DataConfig):
    """Files or globs for each split; without validation files, a part of each file is held out."""

    name: str = setting("text", "what result rows call the data set")
    train: list[str] = setting([], "files or globs of the training split")
    validation: list[str] = setting([], "files or globs of the validation split")
    test: list[str] = setting([], "files or globs of the test split")
    held_out: float = setting(
        0.0,
        "fraction at the end of each training file kept for validation instead",
        at_least=0,
        below=1,
    )

    def problems(self) -> list[str]:
        """There must be text to train on, and one way to hold some out."""
        problems = []
        if not self.train:
            problems.append(
                "data.train: given no file; data=text needs files or globs, "
                "e.g. 'data.train=[books/*.txt]'"
            )
        if bool(self.validation) == (self.held_out > 0):
            problems.append(
                f"data.validation, data.held_out: given {self.validation} and {self.held_out}; "
                "name validation files or hold out a fraction, one of the two"
            )
        return problems


@SOURCES.add("text", TextConfig)
def load_text(config: TextConfig) -> Corpus:
    """Read, check and split the user's files; all of them are read here, to be sure of them."""
    if config.held_out and (config.validation or not config.train):
        raise SettingsError(["data.held_out: it holds out a part of data.train, and nothing else"])
    wanted = {"train": config.train, "validation": config.validation, "test": config.test}
    problems: list[str] = []
    files = {split: _expand(split, given, problems) for split, given in wanted.items() if given}
    if problems or (problems := _in_two_splits(files)):
        raise SettingsError(problems)
    if config.held_out:
        # A cut leaves both parts non-empty or is refused before anything is tokenized.
        for path in files["train"]:
            cut_at_line(read(path), config.held_out, path)

    def whole(paths: list[Path]) -> Documents:
        return lambda: (read(path) for path in paths)

    splits = {split: whole(paths) for split, paths in files.items()}
    if config.held_out:

        def part(index: int) -> Iterator[str]:
            for path in files["train"]:
                yield cut_at_line(read(path), config.held_out, path)[index]

        splits |= {"train": lambda: part(0), "validation": lambda: part(1)}
    return Corpus(config.name, splits)


def read(path: Path) -> str:
    """The text of a UTF-8 file, less a byte order mark; errors name the file and what is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    # UTF-16 of plain English is valid UTF-8 too: every other character is NUL.
    if content.startswith(UTF16_MARKS) or content.count(0) > MOST_NULS * len(content):
        width = 32 if content.count(0) > len(content) / 2 else 16
        raise UserError(
            f"{path} is not UTF-8 text but looks like UTF-{width}; convert it first, e.g. "
            f"iconv -f utf-{width} -t utf-8"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start}; convert it first, e.g. iconv -f latin1 -t utf-8"
        ) from error
    if not text.strip():
        raise UserError(f"{path} is empty; remove it from the list or give a file with text")
    return text


def cut_at_line(text: str, held_out: float, path: Path) -> tuple[str, str]:
    """Cut off the last `held_out` of the text, at the line end nearest before that point."""
    cut = text.rfind("\n", 0, round(len(text) * (1 - held_out))) + 1
    if not text[:cut].strip() or not text[cut:].strip():
        raise UserError(
            f"data.held_out: given {held_out}, but {path} has no line end to cut it at; "
            "give validation files instead"
        )
    return text[:cut], text[cut:]


def _expand(split: str, given: list[str], problems: list[str]) -> list[Path]:
    """The files that names and globs stand for, sorted, each read once to be sure of it."""
    paths: set[Path] = set()
    for pattern in map(os.path.expanduser, given):
        names = glob.glob(pattern, recursive=True) or glob.glob(glob.escape(pattern))
        found = [Path(name) for name in names if Path(name).is_file()]
        if not found:
            only = f"is a folder; give {pattern}/*" if Path(pattern).is_dir() else "matches no file"
            problems.append(f"data.{split}: {pattern} {only}")
        paths.update(found)
    once = {path.resolve(): path for path in sorted(paths, reverse=True)}
    for path in sorted(once.values()):
        try:
            read(path)
        except UserError as error:
            problems.append(f"data.{split}: {error}")
    return sorted(once.values())


def _in_two_splits(files: dict[str, list[Path]]) -> list[str]:
    """A line for each file of a split whose text is another split's too, under whatever name."""
    problems: list[str] = []
    seen: dict[bytes, tuple[str, Path]] = {}
    sizes = Counter(path.stat().st_size for paths in files.values() for path in paths)
    for split, paths in files.items():
        for path in (path for path in paths if sizes[path.stat().st_size] > 1):
            digest = hashlib.sha256(path.read_bytes()).digest()
            other, twin = seen.setdefault(digest, (split, path))
            if other != split:
                same = "" if twin == path else f": {twin} is the same text"
                problems.append(f"data.{split}: {path} is also in data.{other}{same}")
    return problems
