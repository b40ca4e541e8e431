from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from alibi_lm.data.dictionary import SPECIALS, in_fairseq_layout, made_up, read_dictionary
from alibi_lm.data.tokenizers import TOKENIZERS, WordsConfig
from alibi_lm.errors import UserError


@given(st.lists(st.text("abc", min_size=1), unique=True))
def test_layout(words: list[str]) -> None:
    kept = in_fairseq_layout(words)
    assert len(kept) % 8 == 0 and len(kept) - len(words) < 4 + 8
    assert kept[:4] == list(SPECIALS) and kept[4 : 4 + len(words)] == words
    assert len(made_up(kept)) == len(kept) - len(words) - 2


def test_wikitext_103_has_the_papers_vocabulary() -> None:
    """267,735 types, of which two are special words, become 267,744."""
    assert len(in_fairseq_layout([str(i) for i in range(267_735 - 2)])) == 267_744


def test_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("the 100\n<unk> 7 #fairseq:overwrite\n\u2028 3\nmadeupword0000 0\n")
    vocab = read_dictionary(path)
    assert vocab == {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 5, "the": 4, "\u2028": 6} | {
        "madeupword0000": 7
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the 100\ncat\n", "line 2 is 'cat', which is not a word and its count"),
        ("the 100\nthe 5\n", "line 2 repeats the word 'the'"),
        ("the many\n", "line 1 is 'the many'"),
        ("", "line 1 is ''"),
    ],
)
def test_no_dictionary(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "dict.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_dictionary(path)


def test_words_in_the_dictionarys_order(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("b 2\na 1\n")
    config = WordsConfig(layout="fairseq", dictionary=str(path))
    assert config.problems() == [] and config.learns_from() is None
    assert TOKENIZERS.build(config, []).encode("a b c\n").ids == [5, 4, 3, 2]
    for wrong in (
        WordsConfig(dictionary=str(path)),
        WordsConfig(layout="fairseq", dictionary=str(path), vocab_size=10),
        WordsConfig(layout="fairseq", dictionary="gone"),
    ):
        assert "tokenizer.dictionary: given" in wrong.problems()[0]


def test_learned_in_fairseqs_layout() -> None:
    config = WordsConfig(layout="fairseq")
    tokenizer = TOKENIZERS.build(config, ["b b a <unk>\n", "b c\n"])
    assert tokenizer.encode("b a c\n").ids == [4, 5, 6, 2]
    assert tokenizer.get_vocab_size() == 8
