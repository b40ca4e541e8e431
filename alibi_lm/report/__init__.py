"""From results to a report: rows, tables, figures, claims, and one page with them all.

Reads results (rows and, where they were kept, token losses) and nothing else; needs no torch.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alibi_lm.benchmark.rows import Speed
from alibi_lm.errors import UserError
from alibi_lm.evaluation.rows import Result, read_results, write_csv
from alibi_lm.machine.files import write_atomically
from alibi_lm.report.analysis import analyse
from alibi_lm.report.claims import claims_table
from alibi_lm.report.comparisons import comparisons
from alibi_lm.report.figures import FIGURES, save
from alibi_lm.report.page import page
from alibi_lm.report.tables import latex_report, markdown, markdown_report
from alibi_lm.settings import missing, out_of_bounds, setting

__all__ = ["ReportConfig", "gather_results", "summary", "write_report"]


@dataclass
class ReportConfig:
    """Which results are reported, and where."""

    results: list[str] = setting([], "folders of runs or sweeps, or files of results; globs")
    output: str = setting("outputs/report", "folder for the report")
    published: bool = setting(False, "add published numbers")
    speed: str | None = setting(None, "a benchmark's folder, for the claim about speed")

    def problems(self) -> list[str]:
        """There must be results."""
        return out_of_bounds(self) + missing(self, {"results": "[outputs/repro]"})


def gather_results(sources: Sequence[str]) -> list[Result]:
    """All results of folders, files and globs; of one that stands in several, one with losses."""
    found: dict[tuple[object, ...], Result] = {}
    for source in sources:
        for path in sorted(glob.glob(source)) or [source]:
            for result in read_results(Path(path)):
                row = result.row
                key = (row.identity or row.run, row.measurement, row.seconds)
                if key not in found or found[key].losses_file is None:
                    found[key] = result
    return list(found.values())


def summary(results: Sequence[Result], published: bool = False) -> str:
    """The tables of perplexity in Markdown, as they are printed."""
    return markdown_report(comparisons(results), published)


def write_report(
    results: Sequence[Result],
    folder: Path,
    published: bool = False,
    benchmark: Sequence[Speed] = (),
) -> list[Path]:
    """Write everything into the folder; returns the paths, the page first.

    published: lay published numbers under ours. benchmark: speeds, for the claim about them.
    """
    if not results:
        raise UserError("there are no rows to report on")
    analysis = analyse(results, benchmark)
    groups, named = analysis.groups, analysis.titles
    texts = {
        "report.html": page(analysis, published),
        "table.md": markdown_report(groups, published) + "\n",
        "table.tex": latex_report(groups),
        "claims.md": markdown(claims_table(analysis.claims, named), aligned=False) + "\n",
        "loss_by_position.csv": analysis.positions_csv,
        "differences.csv": analysis.differences_csv,
    }
    made = {name: figure.make(groups, named, published) for name, figure in FIGURES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        write_atomically(folder / name, text)
        paths.append(folder / name)
    write_csv(folder / "results.csv", [result.row for result in results])
    paths.append(folder / "results.csv")
    for name, drawn in made.items():
        paths += save(drawn, folder / name) if drawn else []
    return paths
