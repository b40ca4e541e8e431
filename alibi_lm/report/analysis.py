"""What is computed of results once, for the files and the page alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from alibi_lm.benchmark.rows import Speed
from alibi_lm.evaluation.rows import Result
from alibi_lm.report.claims import Checked, check_claims
from alibi_lm.report.comparisons import Comparison, Curve, Study, comparisons, titles
from alibi_lm.report.csv_files import differences_csv, positions_csv


@dataclass(frozen=True)
class Analysis:
    """Results in comparable groups, and what token losses say of them."""

    results: Sequence[Result]
    groups: dict[Comparison, list[Curve]]
    titles: dict[Study, str]
    claims: list[Checked]
    positions_csv: str
    differences_csv: str
    benchmark: Sequence[Speed]


def analyse(results: Sequence[Result], benchmark: Sequence[Speed] = ()) -> Analysis:
    """Group the results, check the claims, compute differences and loss by position."""
    groups = comparisons(results)
    return Analysis(
        results=results,
        groups=groups,
        titles=titles(group.study for group in groups),
        claims=check_claims(groups, benchmark),
        positions_csv=positions_csv(groups),
        differences_csv=differences_csv(groups),
        benchmark=benchmark,
    )
