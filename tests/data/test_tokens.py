import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from alibi_lm.data import tokens as module
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.data.tokenizers import BpeConfig, BytesConfig, WordsConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import UserError


@pytest.fixture
def config(text_file: Path) -> TextConfig:
    return TextConfig(train=[str(text_file)], held_out=0.2)


def test_streams_begin_with_the_end_token_and_hold_the_text(
    config: TextConfig, tmp_path: Path
) -> None:
    data = prepare(config, BytesConfig(), tmp_path)
    text = Path(config.train[0]).read_bytes()
    assert sum(split.bytes for split in data.splits.values()) == len(text)
    for split in data.splits.values():
        assert split.stream[0] == 0
        assert split.tokens == split.bytes + 1  # one document, closed by the end token
        assert isinstance(split.stream, np.memmap)
        assert split.stream.dtype == np.uint16


def test_words_equal_tokens_at_word_level(config: TextConfig, tmp_path: Path) -> None:
    data = prepare(config, WordsConfig(), tmp_path)
    for split in data.splits.values():
        assert split.tokens == split.words


@pytest.mark.parametrize("name", ["", " "])
def test_a_text_has_a_name(text_file: Path, tmp_path: Path, name: str) -> None:
    config = TextConfig(name=name, train=[str(text_file)], held_out=0.2)
    with pytest.raises(UserError, match="the data set needs a name"):
        prepare(config, BytesConfig(), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_done_once(config: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(config, BpeConfig(vocab_size=300), tmp_path)
    monkeypatch.setattr(module, "_build", lambda *_: pytest.fail("tokenized again"))
    again = prepare(config, BpeConfig(vocab_size=300), tmp_path)
    assert again.hash == first.hash
    assert again.tokenizer_hash == first.tokenizer_hash


def test_another_text_or_tokenizer_is_another_folder(text_file: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.txt"
    changed.write_text(text_file.read_text() + "one more line\n")
    cache = tmp_path / "cache"
    hashes = set()
    for path, tokenizer in [
        (text_file, BpeConfig(vocab_size=270)),
        (changed, BpeConfig(vocab_size=270)),
        (text_file, BpeConfig(vocab_size=280)),
    ]:
        data = prepare(TextConfig(train=[str(path)], held_out=0.2), tokenizer, cache)
        hashes.add((data.hash, data.tokenizer_hash))
    assert len(hashes) == 3
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 3


def test_an_interrupted_build_leaves_nothing_that_looks_done(
    config: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", broken)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, BpeConfig(vocab_size=300), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert prepare(config, BpeConfig(vocab_size=300), tmp_path).split("train").tokens > 0


def _prepare_in_a_process(arguments: tuple[TextConfig, Path]) -> tuple[str, int]:
    data = prepare(arguments[0], BpeConfig(vocab_size=300), arguments[1])
    return data.tokenizer_hash, data.split("train").tokens


def test_several_processes_at_once(config: TextConfig, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        results = list(pool.map(_prepare_in_a_process, [(config, tmp_path)] * 3))
    assert len(set(results)) == 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
