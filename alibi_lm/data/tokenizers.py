"""The tokenizers by name; each is one `tokenizers.Tokenizer`, trained or read.

Every tokenizer has an end token, which stands before the first token of a split and after each
document; with whole words, as in the paper, it stands after each line instead.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from alibi_lm.data.corpus import SPLITS
from alibi_lm.data.dictionary import END, UNKNOWN, in_fairseq_layout, read_dictionary
from alibi_lm.errors import UserError
from alibi_lm.machine.progress import say
from alibi_lm.settings import Registry, setting, unknown

TOKENIZERS = Registry("tokenizer")
END_NAMES = (END, "<|endoftext|>", "<eos>", "<|end_of_text|>")
PIECE = 2**16  # characters: longer documents are encoded in pieces that end with a line
PIECES_AT_ONCE = 64  # encoded in parallel
# A cut before these does not split what tokenizers of our time take together: runs of white space.
BEFORE_A_WORD = re.compile(r"\n(?= ?\S)")
NEIGHBOURS = (("one two\n", "three\n"), (" = One =\n \n", " Two\n"))
LAYOUTS = ("plain", "fairseq")


@dataclass
class TokenizerConfig:
    """Settings of a tokenizer. The tokens decide a run, not how they are come by."""

    kind: ClassVar[str]

    def problems(self) -> list[str]:
        """One line for each impossible combination of settings."""
        return []

    def fingerprint(self) -> str:
        """What, besides the settings, decides the tokens."""
        return ""

    def learns_from(self) -> str | None:
        """The split that a vocabulary is learned from, if one is."""
        return None

    def end_token(self) -> str | None:
        """The name of the end token; None: the first that it has of END_NAMES."""
        return END

    @property
    def ends_lines(self) -> bool:
        """Whether the end token closes each line rather than each document."""
        return False

    def cut(self, tokenizer: Tokenizer) -> Callable[[str], Iterable[str]]:
        """How a document is cut into the pieces that are encoded by themselves."""
        return pieces


@dataclass
class BytesConfig(TokenizerConfig):
    """One token for each byte; nothing to set."""


@dataclass
class BpeConfig(TokenizerConfig):
    """Byte-level byte-pair encoding."""

    vocab_size: int = setting(1024, "tokens, the end token and 256 bytes included", at_least=257)
    learn_from: str = setting("train", "split that the vocabulary is learned from", choices=SPLITS)

    def learns_from(self) -> str | None:
        """The split that is set."""
        return self.learn_from


@dataclass
class WordsConfig(TokenizerConfig):
    """Words between white space: a closed vocabulary, most frequent first."""

    vocab_size: int | None = setting(
        None, "words kept, `</s>` and `<unk>` included; null: every word", at_least=3
    )
    learn_from: str = setting("train", "split that the vocabulary is learned from", choices=SPLITS)
    layout: str = setting(
        "plain", "fairseq: as the paper's, 4 specials and a multiple of 8", choices=LAYOUTS
    )
    dictionary: str | None = setting(None, "fairseq's dict.txt, instead of learning; null: none")

    def problems(self) -> list[str]:
        """A dictionary says which words there are and in which order."""
        if self.dictionary is None:
            return []
        problems = []
        if not Path(self.dictionary).is_file():
            problems.append(f"tokenizer.dictionary: given {self.dictionary}, which is not a file")
        if self.vocab_size is not None or self.layout != "fairseq":
            problems.append(
                f"tokenizer.dictionary: given {self.dictionary}, which has words and layout of its "
                "own; give tokenizer.layout=fairseq and no tokenizer.vocab_size with it"
            )
        return problems

    def fingerprint(self) -> str:
        """The dictionary's content."""
        if self.dictionary is None:
            return ""
        return hashlib.sha256(_read_bytes(self.dictionary, "tokenizer.dictionary")).hexdigest()

    def learns_from(self) -> str | None:
        """The split that is set, unless a dictionary makes it needless."""
        return self.learn_from if self.dictionary is None else None

    @property
    def ends_lines(self) -> bool:
        """As in the paper, every line ends in `</s>`."""
        return True


@dataclass
class FileConfig(TokenizerConfig):
    """A tokenizer of the user's own."""

    path: str = setting("", "a tokenizer.json as the tokenizers library saves it")
    end: str | None = setting(
        None, f"its end-of-text token; null: the first it has of {', '.join(END_NAMES)}"
    )

    def problems(self) -> list[str]:
        """There must be a file."""
        if not Path(self.path).is_file():
            given = f"given '{self.path}', which is not a file" if self.path else "not given"
            return [f"tokenizer.path: {given}; tokenizer=file needs a tokenizer.json"]
        return []

    def fingerprint(self) -> str:
        """The file's content."""
        return hashlib.sha256(_read_bytes(self.path, "tokenizer.path")).hexdigest()

    def end_token(self) -> str | None:
        """The one that is set."""
        return self.end

    def cut(self, tokenizer: Tokenizer) -> Callable[[str], Iterable[str]]:
        """Only where no token changes by it; one that marks where a text begins is never cut."""

        def ids(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)

        if all(ids(a + b) == ids(a) + ids(b) for a, b in NEIGHBOURS):
            return partial(pieces, line_end=BEFORE_A_WORD)
        return lambda document: [document]


@TOKENIZERS.add("bpe", BpeConfig)
def train_bpe(config: BpeConfig, text: Iterable[str]) -> Tokenizer:
    """Learn byte pairs from the text, with GPT-2's rule for where words begin."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


@TOKENIZERS.add("words", WordsConfig)
def train_words(config: WordsConfig, text: Iterable[str]) -> Tokenizer:
    """Collect the words of the text, or take a dictionary's; every line ends in the end token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace("\n", f" {END} ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if config.dictionary is not None:
        vocab = read_dictionary(Path(config.dictionary))
    else:
        trainer = trainers.WordLevelTrainer(vocab_size=2**31 - 1, show_progress=False)
        tokenizer.train_from_iterator(text, trainer)
        # The text itself may hold both special words (WikiText does), so they are put first here.
        counted = tokenizer.get_vocab()
        words = sorted(counted.keys() - {END, UNKNOWN}, key=counted.__getitem__)
        kept = [END, UNKNOWN, *words][: config.vocab_size]
        if config.layout == "fairseq":
            kept = in_fairseq_layout(kept[2:])
        vocab = {word: number for number, word in enumerate(kept)}
    tokenizer.model = models.WordLevel(vocab, unk_token=UNKNOWN)
    return tokenizer


@TOKENIZERS.add("bytes", BytesConfig)
def build_bytes(config: BytesConfig, text: Iterable[str]) -> Tokenizer:
    """The 256 bytes and the end token; nothing to learn."""
    vocab = {END: 0} | {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


@TOKENIZERS.add("file", FileConfig)
def read_file(config: FileConfig, text: Iterable[str]) -> Tokenizer:
    """The user's tokenizer as it is."""
    content = _read_bytes(config.path, "tokenizer.path")
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exceptions
        message = f"tokenizer.path: {config.path} is not a tokenizer.json: {error}"
        raise UserError(message) from error
    # Files made for fixed input sizes would drop text or invent tokens.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        say(f"{config.path}: its dropout is left out, or its tokens would be drawn at random")
        tokenizer.model.dropout = None
    return tokenizer


def _read_bytes(path: str, key: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{key}: cannot read {path}: {error.strerror}") from error


def count_ids(tokenizer: Tokenizer) -> int:
    """One more than the largest token number: numbers of a user's tokenizer may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def end_id(tokenizer: Tokenizer, name: str | None) -> int:
    """The number of the end token; `name` is None to look for the usual ones."""
    for candidate in END_NAMES if name is None else (name,):
        if (number := tokenizer.token_to_id(candidate)) is not None:
            return int(number)
    if name is None:
        raise UserError(
            f"tokenizer.end: the tokenizer has none of {', '.join(END_NAMES)}; "
            "name its end-of-text token"
        )
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    raise UserError("tokenizer.end: " + unknown("token", name, special))


def pieces(document: str, line_end: re.Pattern[str] = re.compile("\n")) -> Iterator[str]:
    """The document in pieces of at least PIECE characters, each up to the end of a line."""
    start = 0
    while start < len(document):
        found = line_end.search(document, start + PIECE)
        stop = found.end() if found else len(document)
        yield document[start:stop]
        start = stop


class Encoded(NamedTuple):
    """Some pieces of the documents as tokens."""

    ids: npt.NDArray[np.uint32]
    size: int  # bytes that they stand for
    lost: int  # of these, in lines that the tokens do not give back


def encode(
    tokenizer: Tokenizer, documents: Iterable[str], end: int, config: TokenizerConfig
) -> Iterator[Encoded]:
    """Tokens of the documents, some pieces at a time.

    The end token closes each document, unless the tokenizer itself closes each line with it.
    A UserError if the tokens are not a function of the text.
    """
    # Text that happens to contain "</s>" is text, not the end of a document.
    tokenizer.encode_special_tokens = True
    cut, ends_lines, first = config.cut(tokenizer), config.ends_lines, True

    def queue() -> Iterator[tuple[str, list[int]]]:
        for document in documents:
            if ends_lines and document and not document.endswith("\n"):
                document += "\n"
            for piece in cut(document):
                yield piece, []
            if not ends_lines:
                yield "", [end]

    waiting = queue()
    while batch := list(itertools.islice(waiting, PIECES_AT_ONCE)):
        texts = [piece for piece, _ in batch]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        if first:  # whatever draws lots shows it in the first pieces
            again = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            if ids != [encoding.ids for encoding in again]:
                raise UserError(
                    f"tokenizer={config.kind}: it encodes the same text differently each time; "
                    "give one without randomness"
                )
            first = False
        decoded = tokenizer.decode_batch(ids, skip_special_tokens=False)
        lost = sum(_lost(a, b, ends_lines) for a, b in zip(texts, decoded, strict=True))
        all_ids = itertools.chain(*(i + after for i, (_, after) in zip(ids, batch, strict=True)))
        size = sum(len(text.encode()) for text in texts)
        yield Encoded(np.array(list(all_ids), dtype=np.uint32), size, lost)


def _lost(text: str, decoded: str, ends_lines: bool) -> int:
    """Bytes of the text in lines that differ from what its tokens give back.

    ends_lines: of words a single blank between them is given back, and WikiText's one on both
    sides of a line.
    """
    if text == decoded:
        return 0
    lines, back = text.split("\n"), decoded.split("\n")
    if ends_lines:
        lines = [re.sub("^ (.*?) ?$", r"\1", line) if line[-1:] == " " else line for line in lines]
        back = [line.strip(" ") for line in decoded.split(END)]
    if len(lines) != len(back):
        return len(text.encode())
    differ = (line for line, other in zip(lines, back, strict=True) if line != other)
    return min(sum(len(line.encode()) + 1 for line in differ), len(text.encode()))
