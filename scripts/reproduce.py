"""Train and evaluate a run again from its folder, and compare everything with what is there.

  python scripts/reproduce.py outputs/repro/runs/NAME

Takes config, seed, threads and processes from the folder, and the text from where it was; a text
that is another by now is refused. Prints what differs around the run (commit, packages, machine)
and, for metrics, weights, results and token losses, `identical` or the first difference. Ends with
status 0 only if all are identical, bit for bit.
"""

import argparse
import sys
from pathlib import Path

from alibi_lm.cli import FAILED, run_cleanly
from alibi_lm.machine.progress import say
from alibi_lm.runs.reproduce import reproduce


def main() -> None:
    """Make the run again, say how it compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("--output", type=Path, default=Path("outputs/reproduced"), help="folder")
    arguments = parser.parse_args()

    def run() -> None:
        made = reproduce(arguments.run, arguments.output)
        say(f"\n{arguments.run}, and again {made.again.path}")
        for circumstance in made.circumstances:
            say(f"  not the same: {circumstance}")
        for part in made.comparisons:
            verdict = f"differs: {part.difference}" if part.difference else "identical"
            say(f"  {part.part:<18} {part.compared:>20}  {verdict}")
        say("reproduced bit for bit" if made.identical else "not identical")
        if not made.identical:
            sys.exit(FAILED)

    run_cleanly(run)


if __name__ == "__main__":
    main()
