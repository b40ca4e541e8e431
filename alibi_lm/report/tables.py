"""Tables of schemes by lengths, as the paper prints them, written as Markdown, HTML or LaTeX."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from alibi_lm.evaluation.rows import OUT_OF_MEMORY
from alibi_lm.report.comparisons import (
    METRICS,
    Comparison,
    Curve,
    several_seeds,
    titles,
)
from alibi_lm.report.published import curves_to_compare, scheme_of, table_1

CELLS = {OUT_OF_MEMORY: "OOM"}  # of what was not scored
LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"}  # as in cells, which pandas escapes
LATEX |= {"\\": r"\textbackslash ", "^": r"\textasciicircum ", "~": r"\textasciitilde "}
NEAR = 1.05  # two multiples of the training length are compared if they differ by less


@dataclass(frozen=True)
class Table:
    """Text in cells; `best` are (line, column) of those to mark."""

    head: list[str]
    body: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    texts: int = 1  # columns of words at the left, the others are numbers


def markdown(table: Table, aligned: bool = True) -> str:
    """The table in Markdown, the best cells bold; aligned: to be read as plain text too."""

    def cell(i: int, j: int, text: str) -> str:
        # Names are the user's, and a bar or a line end would break the table.
        return f"**{text}**" if (i, j) in table.best else " ".join(text.split()).replace("|", "\\|")

    body = [[cell(i, j, x) for j, x in enumerate(line)] for i, line in enumerate(table.body)]
    sides = ["left"] * table.texts + ["right"] * (len(table.head) - table.texts)
    if aligned:
        return str(tabulate(body, table.head, "pipe", disable_numparse=True, colalign=sides))
    rule = ["---" if side == "left" else "--:" for side in sides]
    return "\n".join(f"| {' | '.join(line)} |" for line in (table.head, rule, *body))


def latex(table: Table, words: str) -> str:
    """The table in LaTeX (booktabs), the best cells bold, with words as its caption."""
    import pandas as pd

    frame = pd.DataFrame(table.body, columns=table.head, dtype=object)
    bold = frame.map(lambda _: "")
    for i, j in table.best:
        bold.iloc[i, j] = "textbf:--rwrap;"
    style = frame.style.format(escape="latex").format_index(escape="latex", axis=1)
    text: str = (
        style.hide(axis="index")
        .apply(lambda _: bold, axis=None)
        .to_latex(
            caption=re.sub(r"[&%$#_{}\\^~]", lambda found: LATEX[found[0]], words),
            hrules=True,
            column_format="l" * table.texts + "r" * (len(table.head) - table.texts),
            position_float="centering",
        )
    )
    return text.replace("±", r"$\pm$")


def lengths_table(curves: Sequence[Curve], metric: str = "ppl") -> Table:
    """Schemes by evaluation lengths; the lowest of each column is best."""
    lengths = sorted({at for curve in curves for at in {*curve.points, *curve.unscored}})
    body = [
        [curve.scheme, str(curve.train_length), *(_cell(curve, at, metric) for at in lengths)]
        for curve in curves
    ]
    best = set()
    for column, at in enumerate(lengths):
        there = {i: c.means(metric)[at] for i, c in enumerate(curves) if at in c.means(metric)}
        lowest = min(filter(math.isfinite, there.values()), default=math.nan)
        if any(mean != lowest for mean in there.values()):  # nothing is best where all are equal
            best |= {(i, 2 + column) for i, mean in there.items() if mean == lowest}
    return Table(["position", "L", *map(str, lengths)], body, frozenset(best))


def _cell(curve: Curve, length: int, metric: str) -> str:
    seeds = curve.values(metric).get(length)
    if not seeds:
        row = curve.unscored.get(length)
        return "-" if row is None else CELLS.get(row.status, row.status)
    mean = sum(seeds) / len(seeds)
    digits = 3 if metric in ("loss", "bpb", "relative") else 2
    spread = f" ± {number((max(seeds) - min(seeds)) / 2, digits)}" if len(seeds) > 1 else ""
    return number(mean, digits) + spread


def number(x: float, digits: int = 2) -> str:
    """For a table's cell."""
    return f"{x:.{digits}f}" if not x >= 1e5 else f"{x:.2e}"


def caption(group: Comparison, curves: Sequence[Curve], title: str, metric: str) -> str:
    """What a table or figure shows: metric, data, protocol, seeds."""
    n_seeds = several_seeds(curves)
    seeds = f"; mean of {n_seeds} seeds ± half their range" if n_seeds else ""
    return f"{METRICS[metric]}; {title}; {group.label} ({group.protocol.note}){seeds}"


def markdown_report(groups: Mapping[Comparison, list[Curve]], published: bool = False) -> str:
    """All tables of perplexity, one for each comparison, with the paper's numbers if wanted."""
    named = titles(group.study for group in groups)
    parts = []
    for group, curves in groups.items():
        parts.append(caption(group, curves, named[group.study], "ppl") + "; best of a column bold")
        parts.append(markdown(lengths_table(curves)))
        parts += notes(curves)
        if published and (theirs := paper_table(group, curves)):
            parts += [f"Against published numbers, {group.label}", markdown(theirs)]
    return "\n\n".join(parts)


def latex_report(groups: Mapping[Comparison, list[Curve]]) -> str:
    """All tables of perplexity, for a paper that uses the package booktabs."""
    named = titles(group.study for group in groups)
    return "\n".join(
        latex(lengths_table(curves), caption(group, curves, named[group.study], "ppl"))
        for group, curves in groups.items()
    )


def notes(curves: Sequence[Curve]) -> list[str]:
    """What a reader must know of the results: losses that are not finite, code not committed."""
    rows = [p.row for c in curves for seeds in c.points.values() for p in seeds.values() if p.row]
    found = []
    if broken := [row for row in rows if row.nonfinite]:
        words = ", ".join(
            f"{row.position} at {row.eval_length} ({row.nonfinite} of {row.tokens} tokens)"
            for row in broken
        )
        found.append(f"Losses that are not finite: {words}.")
    for curve in curves:
        reasons = {row.reason: length for length, row in sorted(curve.unscored.items())[::-1]}
        found += [
            f"{curve.name} at {length:,} and more: refused, {reason}."
            for reason, length in reasons.items()
            if reason
        ]
    if varying := dict.fromkeys(
        curve.name
        for curve in curves
        for seeds in curve.points.values()
        for point in seeds.values()
        if point.row and not point.row.prefix_consistent
    ):
        found.append(
            "What a token scores depends on the length of the window, not only on what stands "
            f"before it: {'; '.join(varying)}."
        )
    if any(row.dirty for row in rows):
        found.append("Some rows were measured by code with changes that were not committed.")
    commits = {row.commit for row in rows if row.commit}
    if len(commits) > 1:
        found.append(f"The rows were measured by {len(commits)} different commits.")
    return found


def paper_table(group: Comparison, curves: Sequence[Curve]) -> Table | None:
    """Our perplexities beside published ones at (nearly) the same multiple of the training length.

    Of each scheme those of one source, the paper's if it has it.
    """
    theirs = {
        scheme_of(curve): (published.source, curve)
        for published in curves_to_compare(group, curves)
        for curve in published.curves
    }
    body = []
    for curve in curves:
        source, paper = theirs.get(scheme_of(curve), ("", None))
        if paper is None or curve.window:
            continue
        ours, ratios = curve.means("ppl"), curve.means("relative")
        for length in ours:
            at = nearest(paper, length / curve.train_length)
            if at is None:
                continue
            body.append(
                [
                    curve.scheme,
                    str(curve.train_length),
                    str(length),
                    number(ours[length]),
                    number(ratios[length], 3) if length in ratios else "-",
                    str(paper.train_length),
                    str(at),
                    number(paper.means("ppl")[at]),
                    number(paper.means("relative")[at], 3),
                    source,
                ]
            )
    head = ["position", "L", "length", "ppl", "ppl / at L"]
    head += ["theirs: L", "theirs: length", "theirs: ppl", "theirs: ppl / at L", "source"]
    return Table(head, body) if body else None


def paper_speeds_table() -> Table:
    """The paper's table 1."""
    body = [
        [
            speed.position,
            str(speed.length),
            f"{speed.train_words_per_second:,.0f}",
            f"{speed.eval_words_per_second:,.0f}",
            f"{speed.train_memory_gb:.1f}",
        ]
        for speed in table_1().values()
    ]
    return Table(["position", "L", "training, words/s", "evaluation, words/s", "GB"], body)


def nearest(curve: Curve, multiple: float) -> int | None:
    """The evaluation length nearest to that multiple of the training length, if near enough."""
    wanted = multiple * curve.train_length
    if not curve.points:
        return None
    at = min(curve.points, key=lambda length: abs(math.log(length / wanted)))
    return at if max(at / wanted, wanted / at) < NEAR else None
