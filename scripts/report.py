"""Make the report from results: tables, figures, claims, and one page with them all.

  python scripts/report.py results=[outputs/repro]
  python scripts/report.py 'results=[outputs/a/runs/*,outputs/b/results.csv]' output=outputs/both
  python scripts/report.py results=[outputs/repro] published=true       (add published numbers)
  python scripts/report.py results=[outputs/repro] speed=outputs/benchmark

Takes any number of run folders, folders of sweeps (all results of their runs), results.csv and
results.jsonl files. Writes into the output folder report.html, which opens from disk; results.csv,
table.md and table.tex (booktabs), claims.md, loss_by_position.csv, differences.csv; and as PNG,
SVG and PDF extrapolation, relative, same_targets and loss_by_position, where there is something to
show.
Intervals and loss by position need the token losses that lie in the run folders.
"""

from pathlib import Path

import alibi_lm.positions  # noqa: F401  (names and colours of the schemes)
from alibi_lm.benchmark.rows import read_speeds
from alibi_lm.cli import command
from alibi_lm.machine.progress import say
from alibi_lm.report import ReportConfig, gather_results, summary, write_report


def report(config: ReportConfig) -> None:
    """Read the results, write the report."""
    results = gather_results(config.results)
    benchmark = read_speeds(Path(config.speed)) if config.speed else []
    paths = write_report(results, Path(config.output), config.published, benchmark)
    say(summary(results, config.published))
    say("written: " + ", ".join(map(str, paths)))


if __name__ == "__main__":
    command(__doc__, ReportConfig, report, "base")
