"""Make the table and the figure again from rows of results.

  python scripts/report.py outputs/repro/results.csv
  python scripts/report.py outputs/a/runs/* outputs/b/results.csv --output outputs/both

Takes folders of runs and sweeps, results.csv and results.jsonl files, any number. Writes
results.csv, table.md and extrapolation.png into the output folder.
"""

import argparse
from pathlib import Path

from alibi_lm.cli import run_cleanly
from alibi_lm.progress import say
from alibi_lm.report import table, write_report
from alibi_lm.results import read_rows


def main() -> None:
    """Read the rows, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path, help="run folders or results files")
    parser.add_argument("--output", type=Path, default=Path("outputs/report"), help="folder")
    arguments = parser.parse_args()

    def report() -> None:
        read = [row for source in arguments.sources for row in read_rows(source)]
        rows = list(dict.fromkeys(read))  # a run folder and its sweep's CSV hold the same rows
        paths = write_report(rows, arguments.output)
        say(table(rows))
        say("written: " + ", ".join(map(str, paths)))

    run_cleanly(report)


if __name__ == "__main__":
    main()
