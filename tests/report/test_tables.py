import dataclasses
import math

from samples import ROW

from alibi_lm.evaluation.protocols import Nonoverlapping, SameTargets, Sliding
from alibi_lm.evaluation.rows import Result
from alibi_lm.report import summary
from alibi_lm.report.comparisons import Comparison, Curve, Point, Study, comparisons
from alibi_lm.report.published import perplexities
from alibi_lm.report.tables import (
    Table,
    latex,
    lengths_table,
    markdown,
    nearest,
    notes,
    paper_table,
)


def rows(**changes: object) -> list[Result]:
    """Two schemes, three lengths, two seeds; sinusoidal doubles with each length."""
    return [
        Result(
            dataclasses.replace(
                ROW,
                position=position,
                seed=seed,
                eval_length=length,
                stride=length,
                ppl=10.0 * factor**power + seed,
                **changes,
            )  # type: ignore[arg-type]
        )
        for position, factor in (("sinusoidal", 2.0), ("alibi", 1.0))
        for seed in (0, 1)
        for power, length in enumerate((64, 128, 256))
    ]


def test_summary() -> None:
    assert summary(rows()).splitlines() == [
        "Perplexity per token; stdlib validation, bpe tokens; nonoverlapping (every token once, in "
        "blocks of the evaluation length); mean of 2 seeds ± half their range; best of a column "
        "bold",
        "",
        "| position   |   L |           64 |              128 |              256 |",
        "|:-----------|----:|-------------:|-----------------:|-----------------:|",
        "| sinusoidal |  64 | 10.50 ± 0.50 |     20.50 ± 0.50 |     40.50 ± 0.50 |",
        "| alibi      |  64 | 10.50 ± 0.50 | **10.50 ± 0.50** | **10.50 ± 0.50** |",
    ]


def test_missing_infinite_and_out_of_memory() -> None:
    some = [
        r
        for r in rows()
        if r.row.seed == 0 and (r.row.position, r.row.eval_length) != ("alibi", 128)
    ]
    some[0] = Result(dataclasses.replace(some[0].row, ppl=math.inf))
    some.append(Result(dataclasses.replace(some[-1].row, eval_length=512, status="out of memory")))
    (curves,) = comparisons(some).values()
    table = lengths_table(curves)
    assert table.body == [
        ["sinusoidal", "64", "inf", "20.00", "40.00", "-"],
        ["alibi", "64", "10.00", "-", "10.00", "OOM"],
    ]
    assert table.best == {(1, 2), (1, 4)}


def test_uneven_seeds_are_told() -> None:
    uneven = [r for r in rows() if r.row.seed == 0 or r.row.eval_length == 64]
    assert "mean of 1 to 2 seeds" in summary(uneven)


def test_markdown_unaligned() -> None:
    table = Table(["a", "b"], [["long words", "1"]], frozenset({(0, 1)}))
    assert markdown(table, aligned=False) == "| a | b |\n| --- | --: |\n| long words | **1** |"


def test_latex() -> None:
    table = Table(["position", "L", "64"], [["none a_b", "64", "3 ± 1"]], frozenset({(0, 2)}))
    lines = latex(table, "50 % of c_d").splitlines()
    assert lines == [
        r"\begin{table}",
        r"\centering",
        r"\caption{50 \% of c\_d}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"position & L & 64 \\",
        r"\midrule",
        r"none a\_b & 64 & \textbf{3 $\pm$ 1} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_notes_tell_what_a_reader_must_know() -> None:
    (curves,) = comparisons(rows(nonfinite=3, dirty=True, commit="abc")).values()
    found = " ".join(notes(curves))
    assert "sinusoidal at 64 (3 of 1000 tokens)" in found
    assert "not committed" in found
    assert notes(next(iter(comparisons(rows()).values()))) == []


def test_the_nearest_multiple() -> None:
    curve = Curve("alibi", 64, points={length: {0: Point({})} for length in (64, 130, 1000)})
    assert [nearest(curve, multiple) for multiple in (1, 2, 4, 16)] == [64, 130, None, 1000]
    assert nearest(Curve("alibi", 64), 2) is None


def test_beside_the_paper_at_the_same_multiple() -> None:
    (item,) = comparisons(rows()).items()
    table = paper_table(*item)
    assert table is not None
    lines = {(line[0], line[2]): line[5:] for line in table.body}
    # Tables 2 and 5: the nearest published lengths to 2 L, of models trained at 512.
    assert lines["sinusoidal", "128"] == ["512", "1012", "43.54", "2.172", "Press et al. 2022"]
    assert lines["alibi", "128"] == ["512", "1024", "18.81", "0.953", "Press et al. 2022"]
    assert ("sinusoidal", "256") not in lines  # 2,048 is not within 5 % of a published length
    sampled = Comparison(item[0].study, SameTargets(0, sample=9))
    assert paper_table(sampled, item[1]) is None


def test_every_published_number_is_there() -> None:
    groups = perplexities()
    count = sum(len(curve.points) for curves in groups.values() for curve in curves)
    # 535 lines; tables 5, 6, 8, 9 and 12 repeat numbers of others in the same place.
    wikitext = Study(
        "wikitext103 (Press et al. 2022)", "validation", "the paper's", "", "Press et al. 2022"
    )
    blocks = {
        (curve.position, curve.train_length): curve.means("ppl")
        for curve in groups[Comparison(wikitext, Nonoverlapping(0))]
    }
    assert blocks["alibi", 512][15512] == 18.31
    assert blocks["t5", 1024][12024] == 33.35
    assert 13024 not in blocks["t5", 1024]
    slides = groups[Comparison(wikitext, Sliding(0, stride=1))]
    assert {c.position: c.means("ppl")[3072] for c in slides if c.train_length == 512} == {
        "sinusoidal": 360.12,
        "t5": 30.77,
        "alibi": 18.3,
    }
    assert count > 480
