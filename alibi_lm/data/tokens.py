"""Token files: a corpus tokenized once, kept as memory-mapped arrays that runs only read.

    CACHE/NAME-TOKENIZER-KEY/
        tokenizer.json  manifest.json  train.npy  validation.npy  test.npy

The key is a hash of the text and of everything else that decides the tokens, so another text
never meets old tokens. A folder is written under another name and renamed when whole: what
exists is complete. A lock lets several runs start at once.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from filelock import FileLock

import alibi_lm.data.sources  # noqa: F401  (registers them)
from alibi_lm.data.corpus import SOURCES, Corpus, DataConfig, count_words
from alibi_lm.data.dictionary import made_up
from alibi_lm.data.tokenizers import (
    TOKENIZERS,
    TokenizerConfig,
    WordsConfig,
    count_ids,
    encode,
    end_id,
    pieces,
)
from alibi_lm.errors import UserError
from alibi_lm.machine.files import folder_name, naming, sync_folder, write_atomically
from alibi_lm.machine.progress import bar, say

PATHS = ("path", "dictionary")  # of a tokenizer: what lies there decides, not where
WORTH_SAYING = 0.001  # share of a split: every corpus has its empty files
FORMAT = 2  # raise it when the same text would be written differently


@dataclass(frozen=True)
class SplitCounts:
    """What a split holds: the numbers that perplexities are divided by, and the text's hash."""

    words: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """One split as tokens.

    stream: (N + 1,) numbers; the end token, then the N tokens of the split. The stream less its
    last element predicts the stream less its first, so that every token is a target once.
    """

    stream: npt.NDArray[np.unsignedinteger]
    words: int
    bytes: int
    lost: float  # share of the bytes in lines that the tokens do not give back

    @property
    def tokens(self) -> int:
        """N, the number of targets."""
        return len(self.stream) - 1


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus as token files, with what a result row says of it."""

    folder: Path
    name: str
    hash: str  # of the text of all splits
    tokenizer: str
    tokenizer_hash: str
    vocab_size: int
    tokens_hash: str  # of the tokens of all splits
    revision: str | None  # of the data set, if it has one
    splits: dict[str, Split]

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return _open, (self.folder,)  # other processes open the files themselves

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer, as the tokenizers library saves it."""
        return self.folder / "tokenizer.json"

    @property
    def end(self) -> int:
        """The number of the token that ends documents (or lines) and stands before each split."""
        return int(next(iter(self.splits.values())).stream[0])

    @property
    def largest(self) -> int:
        """The largest number of a token in any split."""
        return max(int(np.max(split.stream)) for split in self.splits.values())

    def texts(self) -> list[str | None]:
        """The text of each token; None for the one that ends documents (or lines)."""
        tokenizer = tokenizers.Tokenizer.from_file(str(self.tokenizer_file))
        end = self.end
        decoded = tokenizer.decode_batch([[i] for i in range(self.vocab_size)], False)
        return [None if i == end else text for i, text in enumerate(decoded)]

    def id_of(self, token: str) -> int:
        """The number of a token that the tokenizer has."""
        number = tokenizers.Tokenizer.from_file(str(self.tokenizer_file)).token_to_id(token)
        assert number is not None
        return number

    def split(self, name: str) -> Split:
        """The named split, or a UserError if the corpus lacks it."""
        if name not in self.splits:
            raise UserError(
                f"the data set {self.name} has no {name} split; it has: {', '.join(self.splits)}"
            )
        return self.splits[name]


def prepare(
    data: DataConfig, tokenizer: TokenizerConfig, cache: Path, made: Path | None = None
) -> TokenizedCorpus:
    """Tokenize the corpus unless that is done, and open the token files.

    made: a tokenizer.json that these settings made of another corpus, to be used as it is.
    """
    corpus, counts, folder = _locate(data, tokenizer, cache, made)
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _build(corpus, counts, tokenizer, folder, made)
    return _open(folder)


def find_prepared(
    data: DataConfig, tokenizer: TokenizerConfig, cache: Path
) -> TokenizedCorpus | None:
    """The token files if they are there already; the text is read to know whether they are its."""
    folder = _locate(data, tokenizer, cache)[2]
    return _open(folder) if folder.exists() else None


def find_tokenizer(cache: Path, tokenizer_hash: str) -> Path | None:
    """The tokenizer of that hash, if there are token files of it."""
    for manifest in cache.glob("*/manifest.json"):
        if json.loads(manifest.read_text())["tokenizer_hash"] == tokenizer_hash:
            return manifest.with_name("tokenizer.json")
    return None


def _locate(
    data: DataConfig, tokenizer: TokenizerConfig, cache: Path, made: Path | None = None
) -> tuple[Corpus, dict[str, SplitCounts], Path]:
    """The corpus, its counts, and the folder of its token files."""
    if not data.name.strip():
        raise UserError(
            f"data.name: given '{data.name}', but the data set needs a name; of data=hub, "
            "owner/name"
        )
    corpus = SOURCES.build(data)
    counts = _counts(corpus, cache)
    if not counts:
        raise UserError(f"data: no text given for any split of {corpus.name}")
    fingerprint = tokenizer.fingerprint() if made is None else _digest(made.read_bytes())
    key = _hash(
        [
            FORMAT,
            tokenizers.__version__,
            {split: count.sha256 for split, count in counts.items()},
            {"name": tokenizer.kind}
            | {key: value for key, value in asdict(tokenizer).items() if key not in PATHS},
            fingerprint,
        ]
    )
    name = f"{folder_name(corpus.name)}-{tokenizer.kind}-{key[:12]}"
    return corpus, counts, (cache / name).absolute()


def _counts(corpus: Corpus, cache: Path) -> dict[str, SplitCounts]:
    """What each split holds; a text that is fixed by something else is read for it only once."""
    if corpus.fixed_by is None:
        return {split: _count(corpus, split) for split in corpus.splits}
    kept = cache / "counts" / f"{_hash(corpus.fixed_by)[:16]}.json"
    if kept.exists():
        return {split: SplitCounts(**c) for split, c in json.loads(kept.read_text()).items()}
    counts = {split: _count(corpus, split) for split in corpus.splits}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, json.dumps({split: asdict(c) for split, c in counts.items()}) + "\n")
    return counts


def _count(corpus: Corpus, split: str) -> SplitCounts:
    digest, words, size = hashlib.sha256(), 0, 0
    for document in corpus.splits[split]():
        content = document.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
        words += count_words(document)
        size += len(content)
    if not words:
        raise UserError(f"the {split} split of {corpus.name} is empty")
    if corpus.words is not None and words != corpus.words[split]:
        raise UserError(
            f"the {split} split has {words:,} words and line ends, but the original {corpus.name} "
            f"has {corpus.words[split]:,}; give the original, or another name: data.name=NAME"
        )
    return SplitCounts(words, size, digest.hexdigest())


def _build(
    corpus: Corpus,
    counts: dict[str, SplitCounts],
    config: TokenizerConfig,
    folder: Path,
    made: Path | None,
) -> None:
    """Learn the tokenizer, write every split, and give the folder its name when all is done."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed process left; we hold the lock
    partial.mkdir()
    try:
        if made is None:
            tokenizer = TOKENIZERS.build(config, _text_to_learn_from(corpus, counts, config))
            _check_types(corpus, config, tokenizer)
        else:
            tokenizer = tokenizers.Tokenizer.from_file(str(made))
        write_atomically(partial / "tokenizer.json", tokenizer.to_str(pretty=True))
        end = end_id(tokenizer, config.end_token())
        vocab_size = count_ids(tokenizer)
        dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
        splits: dict[str, dict[str, Any]] = {}
        twins = Twins()
        # Training text comes last: of the others it is known by then what they hold.
        for split in sorted(corpus.splits, key="train".__eq__):
            documents = twins.noting(split, corpus.splits[split]())
            parts, lost = [np.array([end], dtype)], 0
            with bar(total=counts[split].bytes, unit="B", desc=f"tokenize {split}") as progress:
                for encoded in encode(tokenizer, documents, end, config):
                    parts.append(encoded.ids.astype(dtype))
                    lost += encoded.lost
                    progress.update(encoded.size)
            stream = np.concatenate(parts)
            path = partial / f"{split}.npy"
            with naming(path), path.open("wb") as file:
                np.save(file, stream)
                file.flush()
                os.fsync(file.fileno())
            splits[split] = asdict(counts[split]) | {
                "lost": lost / counts[split].bytes,
                "tokens_sha256": _digest(stream.data),
            }
        for split, size in twins.found.items():
            splits[split]["in_train"] = share = size / counts[split].bytes
            if share >= WORTH_SAYING:
                say(
                    f"warning: documents with {share:.1%} of the {split} split's bytes are in the "
                    "train split too, so its losses say less of text that the model has not seen"
                )
        splits = {split: splits[split] for split in corpus.splits}
        manifest = {
            "name": corpus.name,
            "revision": corpus.revision,
            "hash": _hash([asdict(count) for count in counts.values()]),
            "tokenizer": config.kind,
            "tokenizer_hash": _hash(tokenizer.to_str()),
            "vocab_size": vocab_size,
            "tokens_hash": _hash([split["tokens_sha256"] for split in splits.values()]),
            "splits": splits,
        }
        write_atomically(partial / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        partial.replace(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


class Twins:
    """Finds documents of other splits that are in the training split too."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()  # bytes, by split
        self._others: dict[bytes, Counter[str]] = {}  # bytes by split, of each document

    def noting(self, split: str, documents: Iterable[str]) -> Iterator[str]:
        """The documents of a split as they are; of the training split, those of all others."""
        for document in documents:
            content = document.encode()
            digest = hashlib.sha256(content).digest()[:16]
            if split != "train":
                self._others.setdefault(digest, Counter())[split] += len(content)
            else:
                self.found.update(self._others.pop(digest, {}))
            yield document


def _check_types(corpus: Corpus, config: TokenizerConfig, tokenizer: tokenizers.Tokenizer) -> None:
    """Every distinct word of a data set whose number is known must have been told apart."""
    if not isinstance(config, WordsConfig) or corpus.types is None:
        return
    if config.learns_from() == "train" and config.vocab_size is None:
        types = tokenizer.get_vocab_size() - len(made_up(tokenizer.get_vocab()))
        if types != corpus.types:
            raise UserError(
                f"the train split has {types:,} distinct words, but the original {corpus.name} has "
                f"{corpus.types:,}; give the original, or another name: data.name=NAME"
            )


def _text_to_learn_from(
    corpus: Corpus, counts: dict[str, SplitCounts], config: TokenizerConfig
) -> Iterable[str]:
    split = config.learns_from()
    if split is None:
        return []
    if split not in corpus.splits:
        raise UserError(
            f"tokenizer.learn_from: given {split}, but {corpus.name} has only "
            f"{', '.join(corpus.splits)}; name one of these, or give a finished vocabulary: "
            "tokenizer=file tokenizer.path=tokenizer.json"
        )

    def text() -> Iterator[str]:
        with bar(total=counts[split].bytes, unit="B", desc="learn tokenizer") as progress:
            for document in corpus.splits[split]():
                for piece in pieces(document):
                    yield piece
                    progress.update(len(piece.encode()))

    return text()


def _open(folder: Path) -> TokenizedCorpus:
    manifest = json.loads((folder / "manifest.json").read_text())
    splits = {
        split: Split(
            np.load(folder / f"{split}.npy", mmap_mode="r"), c["words"], c["bytes"], c["lost"]
        )
        for split, c in manifest["splits"].items()
    }
    fields = [
        "name",
        "hash",
        "tokenizer",
        "tokenizer_hash",
        "vocab_size",
        "tokens_hash",
        "revision",
    ]
    return TokenizedCorpus(folder, **{f: manifest[f] for f in fields}, splits=splits)


def _hash(value: object) -> str:
    return _digest(json.dumps(value, sort_keys=True).encode())


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
