"""Make the project's W&B workspace: schemes overlaid, perplexity against evaluation length.

  python scripts/dashboard.py outputs/repro --entity NAME
  python scripts/dashboard.py outputs/repro --entity NAME --group repro    (one sweep's runs only)
  python scripts/dashboard.py outputs/repro --dry-run                      (say what it would hold)

Takes results as scripts/report.py does, to know which curves there are. Needs the runs at W&B
(tracking=online, or `wandb sync`), an account (`wandb login`) and requirements-dashboard.txt.
"""

import argparse
from pathlib import Path

from alibi_lm.cli import run_cleanly
from alibi_lm.errors import UserError
from alibi_lm.evaluation.rows import read_results
from alibi_lm.machine.progress import say
from alibi_lm.runs.dashboard import build_workspace, outline, save


def main() -> None:
    """Build the workspace, save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path, help="run folders or results files")
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--project", default="alibi_lm", help="W&B project (default alibi_lm)")
    parser.add_argument("--group", help="runs of this group only; default: all")
    parser.add_argument("--dry-run", action="store_true", help="save nothing, say what it holds")
    arguments = parser.parse_args()

    def make() -> None:
        rows = [result.row for source in arguments.sources for result in read_results(source)]
        if not rows:
            raise UserError(f"there are no results in {', '.join(map(str, arguments.sources))}")
        if not arguments.entity and not arguments.dry_run:
            raise UserError("--entity: not given; name the W&B user or team that has the project")
        entity = arguments.entity or "ENTITY"
        workspace = build_workspace(rows, entity, arguments.project, arguments.group)
        say(outline(workspace))
        if not arguments.dry_run:
            say(f"saved: {save(workspace)}")

    run_cleanly(make)


if __name__ == "__main__":
    main()
