import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
from samples import ROW, result, study

from alibi_lm.errors import UserError
from alibi_lm.evaluation.rows import Result
from alibi_lm.report.comparisons import comparisons, titles


def test_only_comparable_rows_meet(tmp_path: Path) -> None:
    mixed = [
        *study(tmp_path),
        *study(tmp_path, dataset="novels"),
        *study(tmp_path, protocol="sliding", stride=8),
        *study(tmp_path, recipe="other", settings="optim=adamw optim.lr=0.02 model.dropout=0.1"),
        *study(tmp_path, train_length=128),
        *study(tmp_path, window=64),
        *study(tmp_path, variant="theta=5"),
        *study(tmp_path, seconds=9.0),  # the same measurements again
    ]
    groups = comparisons(mixed)
    assert [len(curves) for curves in groups.values()] == [8, 2, 2, 2]
    assert all(len(c.points[64]) == 2 for curves in groups.values() for c in curves)
    schemes = {curve.scheme for curves in groups.values() for curve in curves}
    assert schemes == {
        word + more for word in ("alibi", "sinusoidal") for more in ("", " window=64", " theta=5")
    }


def test_titles_name_the_settings_that_differ(tmp_path: Path) -> None:
    several = [
        *study(tmp_path),
        *study(tmp_path, recipe="b", settings="optim=adamw optim.lr=0.02 model.dropout=0.1"),
        *study(tmp_path, recipe="c", settings="optim=adamw optim.lr=0.02 dtype=bfloat16"),
        *study(tmp_path, recipe="d", settings="optim=adamw optim.lr=0.02 dtype=bfloat16"),
        *study(tmp_path, dataset="novels"),
    ]
    named = titles(group.study for group in comparisons(several))
    assert list(named.values()) == [
        "stdlib validation, bpe tokens, optim.lr=0.01 model.dropout=0.1",
        "stdlib validation, bpe tokens, optim.lr=0.02 model.dropout=0.1",
        "stdlib validation, bpe tokens, optim.lr=0.02 dtype=bfloat16, c",
        "stdlib validation, bpe tokens, optim.lr=0.02 dtype=bfloat16, d",
        "novels validation, bpe tokens",
    ]


def test_values_of_a_curve(tmp_path: Path) -> None:
    ((_, (sinusoidal, alibi)),) = comparisons(study(tmp_path)).items()
    assert sinusoidal.lengths == [64, 128, 256]
    relative = sinusoidal.means("relative")
    assert relative[64] == 1
    assert relative[256] == pytest.approx(
        sinusoidal.means("ppl")[256] / sinusoidal.means("ppl")[64]
    )
    losses = alibi.losses(128, [0, 1])
    assert losses is not None
    assert losses.mean() == pytest.approx(alibi.means("loss")[128])


def test_without_the_training_length_nothing_is_relative() -> None:
    (curves,) = comparisons([Result(ROW)]).values()
    assert curves[0].values("relative") == {}
    assert curves[0].losses(128, [0]) is None


def test_where_memory_ran_out_there_is_no_point(tmp_path: Path) -> None:
    row = dataclasses.replace(ROW, eval_length=512, loss=float("nan"), status="out of memory")
    ((_, (curve,)),) = comparisons([result(tmp_path, lambda c: 3.0), Result(row)]).items()
    assert curve.lengths == [128]
    assert list(curve.unscored) == [512]


def test_rows_of_two_dtypes_are_two_curves(tmp_path: Path) -> None:
    results = [*study(tmp_path), *study(tmp_path, dtype="bfloat16", changes="")]
    ((_, curves),) = comparisons(results).items()
    assert [curve.name for curve in curves] == [
        "Sinusoidal",
        "Sinusoidal, bfloat16",
        "ALiBi",
        "ALiBi, bfloat16",
    ]
    assert curves[-1].scheme == "alibi bfloat16"


def test_what_was_changed_for_all_tells_nothing_apart(tmp_path: Path) -> None:
    changed = {"dtype": "bfloat16", "changes": "backend=blocks"}
    ((_, curves),) = comparisons(study(tmp_path, **changed)).items()
    assert [curve.scheme for curve in curves] == ["sinusoidal", "alibi"]
    settings = "optim=adamw dtype=bfloat16"
    as_trained = study(tmp_path, dtype="bfloat16", settings=settings)
    ((_, curves),) = comparisons([*as_trained, *study(tmp_path, settings=settings)]).items()
    assert [curve.scheme for curve in curves if curve.position == "alibi"] == [
        "alibi",
        "alibi float32",
    ]


def test_two_runs_on_one_point_are_refused_by_name(tmp_path: Path) -> None:
    first, *_ = study(tmp_path)
    other = replace(first, row=replace(first.row, run="other", identity="b"))
    with pytest.raises(UserError, match=f"the runs {first.row.run} and other differ"):
        comparisons([first, other])
    # The same run, evaluated again or in another folder, replaces itself.
    again = replace(first, row=replace(first.row, run="moved", identity="a", seconds=9.0))
    same = replace(first, row=replace(first.row, identity="a"))
    ((_, (curve,)),) = comparisons([same, again]).items()
    assert curve.points[64][0].row == again.row
