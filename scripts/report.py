"""Make the report from results: tables, figures, claims, and one page with them all.

  python scripts/report.py outputs/repro
  python scripts/report.py outputs/a/runs/* outputs/b/results.csv --output outputs/both
  python scripts/report.py outputs/repro --published            (lay the paper's numbers under ours)
  python scripts/report.py outputs/repro --speed outputs/benchmark

Takes any number of run folders, folders of sweeps (all that their runs scored, by whatever
command), results.csv and results.jsonl files. Writes into the output folder report.html, which
opens from disk; results.csv, table.md, claims.md, loss_by_position.csv, differences.csv; and as
PNG and SVG extrapolation, relative, same_targets and loss_by_position, where there is something to
show.
Intervals and loss by position need the token losses that lie in the run folders.
"""

import argparse
from pathlib import Path

from alibi_lm.benchmark.rows import read_speeds
from alibi_lm.cli import run_cleanly
from alibi_lm.evaluation.rows import Result, read_results
from alibi_lm.machine.progress import say
from alibi_lm.report import summary, write_report


def main() -> None:
    """Read the results, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path, help="run folders or results files")
    parser.add_argument("--output", type=Path, default=Path("outputs/report"), help="folder")
    parser.add_argument("--published", action="store_true", help="add the paper's numbers")
    parser.add_argument("--speed", type=Path, help="a benchmark's folder, for its claim")
    arguments = parser.parse_args()

    def report() -> None:
        results: dict[tuple[object, ...], Result] = {}
        for source in arguments.sources:
            read = read_results(source)
            if not read:
                say(f"no results in {source}")
            for result in read:
                # A run folder and its sweep's CSV hold the same rows; losses may lie by one alone.
                key = (result.row.run, result.row.what, result.row.seconds)
                if key not in results or results[key].losses_file is None:
                    results[key] = result
        chosen = list(results.values())
        benchmark = read_speeds(arguments.speed) if arguments.speed else []
        paths = write_report(chosen, arguments.output, arguments.published, benchmark)
        say(summary(chosen, arguments.published))
        say("written: " + ", ".join(map(str, paths)))

    run_cleanly(report)


if __name__ == "__main__":
    main()
