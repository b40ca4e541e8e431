"""Any text data set of the Hugging Face hub, streamed: a row is a document.

What is read is a revision, which decides the text; the token files' manifest names it. A local
folder in the hub's layout (parquet, JSON lines or text files, with or without a card) will do.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from alibi_lm.data.corpus import SOURCES, SPLITS, Corpus, DataConfig, Documents
from alibi_lm.errors import UserError
from alibi_lm.machine.progress import say
from alibi_lm.settings import setting, walk

T = TypeVar("T")


@dataclass
class HubConfig(DataConfig):
    """Which data set, and what of it."""

    name: str = setting("", "owner/name on the hub; what result rows call the data set")
    subset: str | None = setting(None, "one of its configurations; null: the only one")
    revision: str | None = setting(None, "branch, tag or commit; null: the newest commit")
    column: str = setting("text", "the column that holds the text")
    train: str = setting("train", "what its training split is called")
    validation: str | None = setting("validation", "its validation split; null: not read")
    test: str | None = setting("test", "its test split; null: not read")
    documents: int | None = setting(
        None, "of the training split the first so many rows; null: all", at_least=1
    )
    held_out: float = setting(
        0.0, "fraction of the training rows kept for validation, by hash", at_least=0, below=1
    )
    path: str | None = setting(None, "local folder in the hub's layout; null: the hub")

    @property
    def what(self) -> str:
        """The data set, for messages."""
        return f"the data set {self.name}"


@SOURCES.add("hub", HubConfig)
def load_hub(config: HubConfig) -> Corpus:
    """The data set's splits; nobody is asked for them before they are read."""
    if config.path is not None:
        if not Path(config.path).is_dir():
            raise UserError(f"data.path: {config.path} is not a folder")
        return Corpus(config.name, Splits(config, None))
    revision = asked(config.what, lambda: _commit(config), "data.revision=COMMIT of token files")
    fixed_by = [revision, *(value for key, value, _ in walk(config) if key != "revision")]
    return Corpus(config.name, Splits(config, revision), revision=revision, fixed_by=fixed_by)


class Splits(Mapping[str, Documents]):
    """The splits of a data set at a revision (None: of a folder), found when first asked for."""

    def __init__(self, config: HubConfig, revision: str | None) -> None:
        self.config, self.revision = config, revision

    def __getitem__(self, split: str) -> Documents:
        return self._found[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @cached_property
    def _found(self) -> dict[str, Documents]:
        config = self.config
        loaded = asked(config.what, lambda: _streams(config, self.revision))
        names = {split: getattr(config, split) for split in SPLITS}
        splits: dict[str, Documents] = {
            split: partial(_documents, loaded[name], config)
            for split, name in names.items()
            if name in loaded
        }
        if "train" not in splits and (config.held_out or config.documents or not splits):
            raise UserError(
                f"data.train: given {config.train}, but {config.what} has only the splits "
                f"{', '.join(loaded)}"
            )
        if config.held_out and "validation" in splits:
            raise UserError(
                f"data.held_out: given {config.held_out}, but {config.what} has a validation "
                "split; leave it out, or do not read that split: data.validation=null"
            )
        if config.documents is not None:
            splits["train"] = partial(_first, splits["train"], config.documents)
        if config.held_out:
            both = splits["train"]
            splits["train"] = partial(_drawn, both, config.held_out, False)
            splits["validation"] = partial(_drawn, both, config.held_out, True)
        return splits


def asked(what: str, question: Callable[[], T], instead: str = "data.path=FOLDER") -> T:
    """What the hub or a folder answers; a UserError if it does not. instead: a local copy.

    The client raises many types for one thing: no network, a proxy's refusal, an outage.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # retries would be a line each
    try:
        return question()
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if "Config name is missing" in reason:
            raise UserError(f"data.subset: not given; {reason}") from error
        raise UserError(
            f"cannot load {what}: {reason}. Without network, give a local copy, {instead}, "
            "or use data=stdlib or data=text"
        ) from error


def _commit(config: HubConfig) -> str:
    """The commit that is read; whoever names one in full asks nobody."""
    from huggingface_hub import HfApi

    given = config.revision
    if given is not None and len(given) == 40 and all(c in "0123456789abcdef" for c in given):
        return given
    say(f"asking the Hugging Face hub for {config.name}")
    commit = HfApi().dataset_info(config.name, revision=given).sha
    assert commit is not None
    return commit


def _streams(config: HubConfig, revision: str | None) -> dict[str, Any]:
    import datasets

    place = config.path or config.name
    loaded = datasets.load_dataset(place, config.subset, revision=revision, streaming=True)
    return {str(split): rows for split, rows in loaded.items()}


def _documents(rows: Any, config: HubConfig) -> Iterator[str]:
    stream, column = iter(rows), config.column
    while (row := asked(config.what, lambda: next(stream, None))) is not None:
        text = row.get(column)
        if not isinstance(text, str):
            found = f"holds {text!r}" if column in row else f"does not exist; it has {list(row)}"
            raise UserError(f"data.column: given {column}, but a row's {column} {found}")
        yield text


def _first(documents: Documents, count: int) -> Iterator[str]:
    return islice(documents(), count)


def _drawn(documents: Documents, fraction: float, held_out: bool) -> Iterator[str]:
    """Those that are held out, or those that are not: the same text always on the same side."""
    for document in documents():
        drawn = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
        if (drawn < fraction) == held_out:
            yield document
