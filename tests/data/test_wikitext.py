"""WikiText from the original files, from a copy of the hub's repository, and without network."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import datasets
import pytest
from hub_server import hub

from alibi_lm.data.corpus import SOURCES, Corpus, DataConfig, count_words
from alibi_lm.data.sources.wikitext import WikitextConfig, load_wikitext
from alibi_lm.data.tokenizers import WordsConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import UserError

# As in the release: empty lines count, and hold a blank.
LINES = [" \n", " = Title = \n", " \n", " One two <unk> @-@ four . \n", " Last line . \n"]
WORDS = (0 + 1) + (3 + 1) + (0 + 1) + (6 + 1) + (3 + 1)


def original_files(folder: Path) -> Path:
    for name in ("train", "valid", "test"):
        (folder / f"wiki.{name}.tokens").write_text("".join(LINES))
    return folder


def hub_repository(folder: Path, edition: str) -> Path:
    """Parquet files in the hub's layout: a row for each line, empty lines as empty rows."""
    rows = ["" if not line.strip() else line for line in LINES]
    home = folder / edition
    home.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        table = datasets.Dataset.from_dict({"text": rows})
        table.to_parquet(home / f"{split}-00000-of-00001.parquet")
    return folder


def test_from_a_hub(
    tmp_path: Path,
    cold_script: Callable[..., CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Downloaded in a real process, with the library's own requests, from a server like the hub."""
    repository = hub_repository(tmp_path / "repository", "wikitext-103-v1")
    splits = "".join(
        f"  - split: {split}\n    path: wikitext-103-v1/{split}-*\n"
        for split in ("test", "train", "validation")
    )
    card = f"---\nconfigs:\n- config_name: wikitext-103-v1\n  data_files:\n{splits}---\n"
    (repository / "README.md").write_text(card)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for key in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    arguments = ["prepare", "data=wikitext103", "tokenizer=words"]
    with hub("Salesforce/wikitext", repository) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        refused = cold_script(*arguments)
        assert any(path.endswith("train-00000-of-00001.parquet") for path in asked)
        done = cold_script(*arguments, "data.name=small")
        assert done.returncode == 0, done.stderr
    assert refused.returncode == 2
    assert (
        f"the train split has {WORDS} words and line ends, but the original wikitext103 has "
        "103,227,021" in refused.stderr
    )
    (kept,) = (tmp_path / "outputs" / "cache").glob("small-words-*/manifest.json")
    original = WikitextConfig(name="small", path=str(original_files(tmp_path)))
    data = prepare(original, WordsConfig(), tmp_path / "cache")
    assert json.loads(kept.read_text())["hash"] == data.hash


def test_only_the_original_is_called_wikitext103(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the original wikitext103 has 103,227,021; give the orig"):
        prepare(WikitextConfig(path=str(original_files(tmp_path))), WordsConfig(), tmp_path / "c")
    assert not list((tmp_path / "c").glob("*"))


def test_the_originals_words_are_told_apart(tmp_path: Path) -> None:
    """A text of the right length with other words is not the original either."""
    path = str(original_files(tmp_path))
    counts = dict.fromkeys(("train", "validation", "test"), WORDS)

    def words_of(types: int, config: WordsConfig, cache: str = "c") -> int:
        def load(data: DataConfig) -> Corpus:
            corpus = load_wikitext(data)
            return replace(corpus, words=counts, types=types)

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SOURCES.made, "wikitext", load)
            return prepare(WikitextConfig(path=path), config, tmp_path / cache).vocab_size

    distinct = len({"</s>", *"".join(LINES).split()})
    assert words_of(distinct, WordsConfig()) == distinct
    assert words_of(distinct, WordsConfig(layout="fairseq")) == -(-(distinct + 2) // 8) * 8
    assert words_of(999, WordsConfig(vocab_size=5)) == 5
    with pytest.raises(UserError, match=f"has {distinct} distinct words, but the original"):
        words_of(999, WordsConfig(layout="fairseq"), "d")


def test_original_files_and_hub_layout_give_the_same_tokens(tmp_path: Path) -> None:
    original = original_files(tmp_path)
    copy = hub_repository(tmp_path / "repository", "wikitext-103-v1")
    streams = []
    for path in (original, copy, copy / "wikitext-103-v1"):
        data = prepare(
            WikitextConfig(name="small", path=str(path)), WordsConfig(), tmp_path / "cache"
        )
        assert {name: split.tokens for name, split in data.splits.items()} == {
            "train": WORDS,
            "validation": WORDS,
            "test": WORDS,
        }
        streams.append((data.hash, data.split("train").stream.tolist()))
    assert streams[0] == streams[1] == streams[2]


def test_words_are_those_of_the_text_whatever_the_tokenizer(tmp_path: Path) -> None:
    corpus = load_wikitext(WikitextConfig(path=str(original_files(tmp_path))))
    (document,) = corpus.splits["test"]()
    assert count_words(document) == WORDS


def test_the_other_edition_is_not_taken_for_it(tmp_path: Path) -> None:
    repository = hub_repository(tmp_path, "wikitext-2-v1")
    with pytest.raises(UserError, match="holds neither"):
        load_wikitext(WikitextConfig(path=str(repository)))
    with pytest.raises(UserError, match="is not a folder"):
        load_wikitext(WikitextConfig(path=str(tmp_path / "gone")))


def test_damaged_parquet(tmp_path: Path) -> None:
    repository = hub_repository(tmp_path, "wikitext-103-v1")
    (repository / "wikitext-103-v1" / "test-00000-of-00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot read the parquet files"):
        load_wikitext(WikitextConfig(path=str(repository)))


def test_parquet_of_something_else(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        table = datasets.Dataset.from_dict({"content": ["a"]})
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(UserError, match="have no column 'text', only content"):
        load_wikitext(WikitextConfig(path=str(tmp_path)))


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=r"data\.path=FOLDER") as caught:
        load_wikitext(WikitextConfig())
    assert "\n" not in str(caught.value)


def test_without_a_training_split(tmp_path: Path) -> None:
    original_files(tmp_path)
    (tmp_path / "wiki.train.tokens").unlink()
    config = WikitextConfig(name="small", path=str(tmp_path))
    with pytest.raises(UserError, match=r"tokenizer\.learn_from: given train"):
        prepare(config, WordsConfig(), tmp_path / "cache")
    data = prepare(config, WordsConfig(learn_from="validation"), tmp_path / "cache")
    assert data.split("test").tokens == WORDS
    with pytest.raises(UserError, match="has no train split"):
        data.split("train")
