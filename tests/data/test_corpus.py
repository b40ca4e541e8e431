from hypothesis import given
from hypothesis import strategies as st

from alibi_lm.data.corpus import count_words, lines


def test_lines() -> None:
    assert lines("") == []
    assert lines("a") == ["a"]
    assert lines("a\n") == ["a"]
    assert lines("\na\n\n") == ["", "a", ""]


def test_words_and_line_ends() -> None:
    assert count_words(" = Title = \n \nOne two .\n") == 3 + 0 + 3 + 3
    assert count_words("no end") == 3


@given(st.lists(st.text(st.characters(exclude_characters="\n")), min_size=1))
def test_one_line_end_for_each_line(parts: list[str]) -> None:
    assert len(lines("".join(part + "\n" for part in parts))) == len(parts)
