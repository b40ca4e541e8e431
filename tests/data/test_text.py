from pathlib import Path

import pytest

from alibi_lm.data.sources.text import TextConfig, load_text
from alibi_lm.errors import SettingsError, UserError


def documents(config: TextConfig) -> dict[str, list[str]]:
    return {split: list(opened()) for split, opened in load_text(config).splits.items()}


def test_files_and_globs(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "v.md", "odd[1].txt"):
        (tmp_path / name).write_text(f"text of {name}\n")
    found = documents(
        TextConfig(
            train=[str(tmp_path / "**/[a-c].txt"), str(tmp_path / "a.txt")],
            validation=[str(tmp_path / "v.md")],
            test=[str(tmp_path / "odd[1].txt")],
        )
    )
    assert found == {
        "train": ["text of a.txt\n", "text of b.txt\n", "text of sub/c.txt\n"],
        "validation": ["text of v.md\n"],
        "test": ["text of odd[1].txt\n"],
    }


def test_held_out_is_the_end_of_each_file(tmp_path: Path) -> None:
    text = "".join(f"line {i:02}\n" for i in range(20))
    for name in ("a", "b"):
        (tmp_path / name).write_text(text)
    found = documents(TextConfig(train=[str(tmp_path / "*")], held_out=0.25))
    assert set(found) == {"train", "validation"}
    for kept, held_out in zip(found["train"], found["validation"], strict=True):
        assert kept + held_out == text
        assert held_out.startswith("line 15")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone two\n")
    (tmp_path / "b.txt").write_text("three\n")
    found = documents(TextConfig(train=[str(tmp_path / "a.txt")], test=[str(tmp_path / "b.txt")]))
    assert found["train"] == ["one two\n"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf")
    (line,) = problems(TextConfig(train=[str(tmp_path / "a.txt")]))
    assert "is empty" in line


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_encodings_that_pass_for_utf_8(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("plain English\n".encode(encoding))
    (line,) = problems(TextConfig(train=[str(tmp_path / "a.txt")]))
    assert f"looks like {encoding[:6].upper()}; convert it first, e.g. iconv -f" in line


def test_the_same_text_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text\n")
    (tmp_path / "b.txt").write_text("another text\n")
    (tmp_path / "copy.txt").write_text("one text\n")
    (tmp_path / "link.txt").symlink_to("a.txt")
    a, b, copy, link = (str(tmp_path / f"{name}.txt") for name in ("a", "b", "copy", "link"))
    for twin in (copy, link):
        (line,) = problems(TextConfig(train=[a, b], validation=[twin]))
        assert line == f"data.validation: {twin} is also in data.train: {a} is the same text"
    assert documents(TextConfig(train=[a, link], validation=[b]))["train"] == ["one text\n"]


def problems(config: TextConfig) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_text(config)
    return caught.value.problems


def test_missing_empty_and_undecodable_files_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait\n")
    (tmp_path / "good.txt").write_text("fine\n")
    lines = problems(
        TextConfig(
            train=[str(tmp_path / name) for name in ("gone.txt", "empty.txt", "latin.txt")],
            validation=[str(tmp_path / "good.txt")],
        )
    )
    assert len(lines) == 3
    assert "gone.txt matches no file" in lines[0]
    assert "empty.txt is empty" in lines[1]
    assert "latin.txt is not UTF-8 text: byte 0xe9 at offset 3" in lines[2]


def test_a_file_in_two_splits(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine\n")
    name = str(tmp_path / "a.txt")
    (line,) = problems(TextConfig(train=[name], validation=[str(tmp_path / "*.txt")]))
    assert "is also in data.train" in line


def test_nothing_to_cut_at(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a single line")
    with pytest.raises(UserError, match="no line end to cut it at"):
        load_text(TextConfig(train=[str(tmp_path / "one.txt")], held_out=0.1))


def test_settings_that_cannot_be() -> None:
    assert len(TextConfig().problems()) == 2
    assert TextConfig(train=["a"], validation=["b"], held_out=0.1).problems()
    assert not TextConfig(train=["a"], validation=["b"]).problems()
    assert not TextConfig(train=["a"], held_out=0.1).problems()
