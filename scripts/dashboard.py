"""Make the project's W&B workspace: schemes overlaid, perplexity against evaluation length.

  python scripts/dashboard.py results=[outputs/repro] entity=NAME
  python scripts/dashboard.py results=[outputs/repro] entity=NAME group=repro   (one sweep's runs)
  python scripts/dashboard.py results=[outputs/repro] dry_run=true             (print what it holds)

Takes results as scripts/report.py does, to know which curves there are. Needs the runs at W&B
(tracking=online, or `wandb sync`), an account (`wandb login`) and requirements-dashboard.txt.
"""

from alibi_lm.cli import command
from alibi_lm.errors import UserError
from alibi_lm.machine.progress import say
from alibi_lm.report import gather_results
from alibi_lm.runs.dashboard import DashboardConfig, build_workspace, outline, save


def make(config: DashboardConfig) -> None:
    """Build the workspace, save it."""
    rows = [result.row for result in gather_results(config.results)]
    if not rows:
        raise UserError(f"there are no results in {', '.join(config.results)}")
    workspace = build_workspace(rows, config.entity or "ENTITY", config.project, config.group)
    say(outline(workspace))
    if not config.dry_run:
        say(f"saved: {save(workspace)}")


if __name__ == "__main__":
    command(__doc__, DashboardConfig, make, "base")
