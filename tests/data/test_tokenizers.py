import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from alibi_lm.data import tokenizers as module
from alibi_lm.data.corpus import count_words
from alibi_lm.data.tokenizers import (
    TOKENIZERS,
    BpeConfig,
    BytesConfig,
    FileConfig,
    TokenizerConfig,
    WordsConfig,
    count_ids,
    encode,
    end_id,
    pieces,
)
from alibi_lm.errors import UserError

SAMPLE = "the cat sat on the mat\nthe dog saw the cat\n\nüber café 日本\n"


def ids(
    tokenizer: Tokenizer, documents: list[str], config: TokenizerConfig | None = None
) -> list[int]:
    parts = encode(tokenizer, documents, 0, config or BytesConfig())
    return list(itertools.chain(*(part.ids.tolist() for part in parts)))


def lost(tokenizer: Tokenizer, document: str, config: TokenizerConfig) -> int:
    return sum(part.lost for part in encode(tokenizer, [document], 0, config))


documents = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5)


@given(documents)
@settings(deadline=None)
def test_bytes_are_the_utf8_bytes_and_an_end_for_each_document(texts: list[str]) -> None:
    tokenizer = TOKENIZERS.build(BytesConfig(), [])
    assert tokenizer.get_vocab_size() == 257
    got = ids(tokenizer, texts)
    assert len(got) == sum(len(text.encode()) + 1 for text in texts)
    assert got.count(0) == len(texts)


@given(documents)
@settings(deadline=None)
def test_bpe_gives_the_text_back(texts: list[str]) -> None:
    tokenizer = TOKENIZERS.build(BpeConfig(vocab_size=280), [SAMPLE])
    got = ids(tokenizer, texts)
    assert got.count(0) == len(texts)
    assert tokenizer.decode(got, skip_special_tokens=False) == "".join(t + "</s>" for t in texts)
    assert not any(lost(tokenizer, text, BpeConfig()) for text in texts)


@given(documents)
@settings(deadline=None)
def test_words_are_as_many_as_the_corpus_counts(texts: list[str]) -> None:
    tokenizer = TOKENIZERS.build(WordsConfig(), [SAMPLE])
    assert len(ids(tokenizer, texts, WordsConfig())) == sum(map(count_words, texts))


def test_words_by_hand() -> None:
    tokenizer = TOKENIZERS.build(WordsConfig(), [SAMPLE])
    assert tokenizer.id_to_token(0) == "</s>"
    assert tokenizer.id_to_token(1) == "<unk>"
    assert tokenizer.id_to_token(2) == "the"  # the most frequent word comes first
    got = [
        tokenizer.id_to_token(i) for i in ids(tokenizer, ["the dog barks\n\nmat"], WordsConfig())
    ]
    assert got == ["the", "dog", "<unk>", "</s>", "</s>", "mat", "</s>"]


def test_words_cut_to_a_size() -> None:
    tokenizer = TOKENIZERS.build(WordsConfig(vocab_size=4), [SAMPLE])
    assert tokenizer.get_vocab() == {"</s>": 0, "<unk>": 1, "the": 2, "cat": 3}


def test_learning_is_deterministic() -> None:
    text = [f"{a} {b} {a}{b}\n" for a in "abcdef" for b in "uvwxyz"] * 3
    for config in (BpeConfig(vocab_size=300), WordsConfig()):
        first, second = (TOKENIZERS.build(config, text).to_str() for _ in range(2))
        assert first == second


def test_the_end_token_in_the_text_is_text() -> None:
    tokenizer = TOKENIZERS.build(BpeConfig(vocab_size=280), [SAMPLE])
    assert ids(tokenizer, ["a </s> b"]).count(0) == 1


def test_file_round_trip(tmp_path: Path) -> None:
    trained = TOKENIZERS.build(BpeConfig(vocab_size=280), [SAMPLE])
    trained.save(str(tmp_path / "tokenizer.json"))
    config = FileConfig(path=str(tmp_path / "tokenizer.json"))
    assert ids(TOKENIZERS.build(config, []), [SAMPLE]) == ids(trained, [SAMPLE])
    assert end_id(trained, config.end_token()) == 0


def test_a_files_truncation_padding_and_gaps_do_no_harm(tmp_path: Path) -> None:
    trained = TOKENIZERS.build(BpeConfig(vocab_size=280), [SAMPLE])
    whole = ids(trained, [SAMPLE])
    trained.enable_truncation(4)
    trained.enable_padding(length=500)
    trained.save(str(tmp_path / "tokenizer.json"))
    read = TOKENIZERS.build(FileConfig(path=str(tmp_path / "tokenizer.json")), [])
    assert ids(read, [SAMPLE]) == whole

    vocab = {"</s>": 0, "<unk>": 1, "the": 70_000}
    gaps = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    gaps.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert count_ids(gaps) == 70_001
    assert ids(gaps, ["the"]) == [70_000, 0]


def test_what_the_tokens_do_not_give_back_is_counted() -> None:
    words = TOKENIZERS.build(WordsConfig(), [SAMPLE])
    assert lost(words, SAMPLE, WordsConfig()) == 0
    assert lost(words, " the cat \n \n the dog \n", WordsConfig()) == 0  # as WikiText is written
    assert lost(words, "the cat\nthe mouse\n", WordsConfig()) == len("the mouse\n")
    assert lost(words, "the cat\nthe  dog\n", WordsConfig()) == len("the  dog\n")
    unknown = TOKENIZERS.build(WordsConfig(vocab_size=4), [SAMPLE])
    assert lost(unknown, "the cat\n<unk> the\nthe dog\n", WordsConfig()) == len("the dog\n")
    lower = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "<unk>": 2}, unk_token="<unk>"))
    lower.normalizer, lower.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    assert lost(lower, "a a", FileConfig()) == 0
    assert lost(lower, "A a", FileConfig()) == len("A a")


def saved(tokenizer: Tokenizer, path: Path) -> FileConfig:
    tokenizer.save(str(path))
    return FileConfig(path=str(path))


def test_dropout_of_a_file_is_left_out(tmp_path: Path) -> None:
    trained = TOKENIZERS.build(BpeConfig(vocab_size=280), [SAMPLE])
    whole = ids(trained, [SAMPLE * 9])
    trained.model.dropout = 0.5
    config = saved(trained, tmp_path / "tokenizer.json")
    assert ids(TOKENIZERS.build(config, []), [SAMPLE * 9], config) == whole
    with pytest.raises(UserError, match="encodes the same text differently each time"):
        ids(trained, [SAMPLE * 9])


def test_documents_are_cut_only_where_no_token_changes(tmp_path: Path) -> None:
    """A tokenizer that marks where a text begins would mark each piece."""
    document = "\n\n  ".join([SAMPLE] * 40)
    marking = Tokenizer(models.BPE(unk_token="<unk>"))
    marking.pre_tokenizer, marking.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    marking.train_from_iterator([SAMPLE], trainers.BpeTrainer(special_tokens=["</s>", "<unk>"]))
    bytes_of_gpt2 = TOKENIZERS.build(BpeConfig(vocab_size=300), [document])
    module_piece = module.PIECE
    try:
        for tokenizer in (marking, bytes_of_gpt2):
            config = saved(tokenizer, tmp_path / "tokenizer.json")
            module.PIECE = 2**16
            whole = ids(tokenizer, [document], config)
            module.PIECE = 50
            assert ids(tokenizer, [document], config) == whole
            cut = list(config.cut(tokenizer)(document))
            assert "".join(cut) == document
            assert len(cut) == (1 if tokenizer is marking else 40)
            assert lost(tokenizer, document, config) == 0
    finally:
        module.PIECE = module_piece


def test_files_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    for path, message in [
        (str(tmp_path / "gone.json"), "cannot read"),
        (str(tmp_path / "bad.json"), r"is not a tokenizer\.json"),
    ]:
        with pytest.raises(UserError, match=message):
            TOKENIZERS.build(FileConfig(path=path), [])
    assert "not given" in FileConfig().problems()[0]
    assert "gone.json" in FileConfig(path=str(tmp_path / "gone.json")).problems()[0]
    assert not FileConfig(path=str(tmp_path / "bad.json")).problems()
    with pytest.raises(UserError, match="does not exist"):
        end_id(TOKENIZERS.build(BytesConfig(), []), "<stop>")


@given(st.text("ab\n", max_size=300))
def test_pieces_end_with_lines_and_lose_nothing(document: str) -> None:
    module_piece = module.PIECE
    module.PIECE = 10
    try:
        parts = list(pieces(document))
    finally:
        module.PIECE = module_piece
    assert "".join(parts) == document
    assert all(part.endswith("\n") and len(part) > 10 for part in parts[:-1])
