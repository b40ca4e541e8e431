"""WikiText-103 and WikiText-2 (Merity et al. 2016), word-level and raw.

From the Hugging Face hub, or from a local folder that holds either the original files
(`wiki.train.tokens` ... or `wiki.train.raw` ...) or parquet files in the hub's layout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alibi_lm.data.corpus import SOURCES, SPLITS, Corpus, DataConfig, Documents
from alibi_lm.data.sources.hub import asked
from alibi_lm.data.sources.text import read
from alibi_lm.errors import UserError
from alibi_lm.machine.progress import say
from alibi_lm.settings import setting

HUB_NAME = "Salesforce/wikitext"
EDITIONS = ("wikitext-103-v1", "wikitext-103-raw-v1", "wikitext-2-v1", "wikitext-2-raw-v1")
# Of the release: words and line ends (as fairseq counts them) and distinct words, `<unk>` and the
# line end among them (as Transformer-XL does). Only what has them is called wikitext103.
ORIGINAL = {"train": 103_227_021, "validation": 217_646, "test": 245_569}
ORIGINAL_TYPES = 267_735
FILE_NAMES = {"train": "train", "validation": "valid", "test": "test"}


@dataclass
class WikitextConfig(DataConfig):
    """Which edition of WikiText, and from where."""

    name: str = setting("wikitext103", "what result rows call the data set")
    edition: str = setting("wikitext-103-v1", "word-level (-v1) or raw text", choices=EDITIONS)
    path: str | None = setting(
        None, "local folder with wiki.*.tokens, wiki.*.raw or parquet files; null: the hub"
    )


@SOURCES.add("wikitext", WikitextConfig)
def load_wikitext(config: WikitextConfig) -> Corpus:
    """WikiText from the local folder, if one is given, or else from the hub."""
    splits = _load(config)
    if (config.name, config.edition) == ("wikitext103", "wikitext-103-v1"):
        return Corpus(config.name, splits, ORIGINAL, ORIGINAL_TYPES)
    return Corpus(config.name, splits)


def _load(config: WikitextConfig) -> dict[str, Documents]:
    if config.path is None:
        return _splits_of(_from_hub(config.edition))
    folder = Path(config.path)
    if not folder.is_dir():
        raise UserError(f"data.path: {folder} is not a folder")
    suffix = "raw" if "raw" in config.edition else "tokens"
    files = {split: folder / f"wiki.{name}.{suffix}" for split, name in FILE_NAMES.items()}
    present = {split: path for split, path in files.items() if path.is_file()}
    if present:
        for path in present.values():
            read(path)

        def original(path: Path) -> Documents:
            return lambda: iter([read(path)])

        return {split: original(path) for split, path in present.items()}
    return _splits_of(_from_parquet(folder, config.edition))


def _from_hub(edition: str) -> Any:
    import datasets

    say(f"asking the Hugging Face hub for {HUB_NAME} ({edition})")
    return asked(
        f"{HUB_NAME} ({edition}) from the Hugging Face hub",
        lambda: datasets.load_dataset(HUB_NAME, edition),
        "data.path=FOLDER with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens or the "
        "hub's parquet files",
    )


def _from_parquet(folder: Path, edition: str) -> Any:
    """A copy of the hub's repository (a folder for each edition) or one such folder itself."""
    import datasets

    home = folder / edition if (folder / edition).is_dir() else folder
    files = {split: sorted(map(str, home.glob(f"{split}-*.parquet"))) for split in SPLITS}
    files = {split: paths for split, paths in files.items() if paths}
    if not files:
        suffix = "raw" if "raw" in edition else "tokens"
        raise UserError(
            f"data.path: {folder} holds neither wiki.*.{suffix} nor {edition}/*.parquet files; "
            f"data.edition is {edition}"
        )
    try:
        loaded = datasets.load_dataset("parquet", data_files=files)
    except Exception as error:
        raise UserError(f"data.path: cannot read the parquet files in {home}: {error}") from error
    for split, rows in loaded.items():
        if "text" not in rows.column_names:
            raise UserError(
                f"data.path: the {split} files in {home} have no column 'text', only "
                f"{', '.join(rows.column_names)}"
            )
    return loaded


def _splits_of(loaded: Any) -> dict[str, Documents]:
    """The rows are lines; joined again they are the one document of each split."""

    def join(rows: Any) -> Iterator[str]:
        # An empty row stands for a line with a single blank in the original.
        yield "".join(row if row.endswith("\n") else (row or " ") + "\n" for row in rows["text"])

    return {split: partial(join, loaded[split]) for split in SPLITS if split in loaded}
