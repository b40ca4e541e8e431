"""What a corpus is: named splits of documents; and how its text is counted.

A source (`stdlib`, `text`, `wikitext`, `hub`) is one file: its settings, and a function that turns
them into a `Corpus`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from alibi_lm.settings import Registry, setting

SOURCES = Registry("data")

SPLITS = ("train", "validation", "test")

# Python's str.split takes these four control characters for white space, Unicode does not.
_NO_SPACE = str.maketrans(dict.fromkeys("\x1c\x1d\x1e\x1f", "x"))

# Opens a split: its documents as text, in the same order each time.
Documents = Callable[[], Iterator[str]]


@dataclass
class DataConfig:
    """Settings of a corpus; each source adds its own. The text decides a run, not its place."""

    kind: ClassVar[str]

    name: str = setting("", "what result rows call the data set")

    def problems(self) -> list[str]:
        """One line for each impossible combination of settings."""
        return []


@dataclass(frozen=True)
class Corpus:
    """Splits of documents. A split that the source does not have is missing from the mapping.

    words: of each split, where the data set is one whose counts are known; types: its distinct
    words. A text of its name must have as many. fixed_by: what decides the text, so that it need
    not be read to know whether it is the same, such as a revision; None: only the text itself.
    """

    name: str
    splits: Mapping[str, Documents]
    words: dict[str, int] | None = None
    types: int | None = None
    revision: str | None = None
    fixed_by: list[Any] | None = None


def lines(document: str) -> list[str]:
    """The lines of a document without their line ends; a last line may lack its end."""
    parts = document.split("\n")
    return parts[:-1] if parts[-1] == "" else parts


def count_words(document: str) -> int:
    """Words between white space plus one for each line's end.

    This is the paper's count: every line of WikiText ends in a `</s>` that is predicted like any
    word. Perplexities per word of different tokenizers compare only over this common count.
    """
    return len(document.translate(_NO_SPACE).split()) + len(lines(document))
