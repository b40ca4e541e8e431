import dataclasses
import math
from pathlib import Path

import pytest
from samples import ROW

from alibi_lm.errors import UserError
from alibi_lm.results import COLUMNS, read_rows, write_csv, write_jsonl

BROKEN = dataclasses.replace(
    ROW, loss=math.nan, ppl=math.inf, nonfinite=3, commit="abc", dirty=True, seed=1
)


def test_the_contract_comes_first() -> None:
    assert COLUMNS[:16] == (
        "position", "train_length", "eval_length", "protocol", "stride", "seed", "dataset",
        "split", "tokenizer", "tokens", "words", "bytes", "loss", "ppl", "word_ppl", "bpb",
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_nothing_is_lost(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"results.{suffix}"
    {"csv": write_csv, "jsonl": write_jsonl}[suffix](path, [ROW, BROKEN])
    first, second = read_rows(path)
    assert first == ROW
    assert math.isnan(second.loss)
    assert dataclasses.replace(second, loss=0.0) == dataclasses.replace(BROKEN, loss=0.0)


def test_a_run_folder_is_read_by_its_results(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "results.jsonl", [ROW])
    assert read_rows(tmp_path) == [ROW]
    write_csv(tmp_path / "results.csv", [ROW, ROW])  # a sweep's folder
    assert read_rows(tmp_path) == [ROW, ROW]


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", "a,b\n1,2\n"), ("x.jsonl", '{"position": "alibi"}\n'), ("y.jsonl", "not json\n")],
)
def test_files_of_something_else(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="does not hold rows"):
        read_rows(tmp_path / name)
    with pytest.raises(UserError, match="cannot read"):
        read_rows(tmp_path / "gone.csv")
