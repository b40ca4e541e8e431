"""Word vocabularies as fairseq numbers them, and the dict.txt that it keeps them in.

Four special words come first, then the others from the most frequent on; fairseq-preprocess fills
them up to a multiple of 8 with words that no text has (fairseq/data/dictionary.py).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from alibi_lm.errors import UserError

END = "</s>"
UNKNOWN = "<unk>"
SPECIALS = ("<s>", "<pad>", END, UNKNOWN)
MULTIPLE = 8
OVERWRITE = " #fairseq:overwrite"  # closes a line whose word may be a special one


def in_fairseq_layout(words: Sequence[str]) -> list[str]:
    """Words, from the most frequent on, with what fairseq puts before and after them."""
    kept = [*SPECIALS, *(word for word in words if word not in SPECIALS)]
    return kept + [f"madeupword{number:04d}" for number in range(-len(kept) % MULTIPLE)]


def made_up(words: Iterable[str]) -> set[str]:
    """Those that no text has."""
    return {w for w in words if w in ("<s>", "<pad>") or w.startswith("madeupword")}


def count_words(vocab: dict[str, int]) -> int:
    """One more than the largest number; a special word that was overwritten leaves a gap."""
    return max(vocab.values()) + 1


def read_dictionary(path: Path) -> dict[str, int]:
    """The number of each word of a dict.txt; a UserError that names the line if it is not one."""
    vocab = {word: number for number, word in enumerate(SPECIALS)}
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a dict.txt: it is not UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        entry = line.removesuffix(OVERWRITE)
        word, blank, count = entry.rpartition(" ")
        if not (word and blank and count.isdigit()):
            raise UserError(
                f"{path} is not a dict.txt: line {number} is {line[:40]!r}, which is not a word "
                "and its count"
            )
        if word in vocab and entry == line:
            raise UserError(f"{path} is not a dict.txt: line {number} repeats the word {word!r}")
        vocab[word] = len(SPECIALS) + number - 1
    if len(vocab) == len(SPECIALS):
        raise UserError(f"{path} is not a dict.txt: it has no words")
    return vocab
