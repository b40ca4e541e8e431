"""A W&B workspace that lays schemes over each other: the project's comparison at a glance.

Runs are grouped by family and scheme (by its settings and training length, too, where there are
several): every line is the mean of a group's seeds with their range. Which curves there are is read
from results, as for a report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alibi_lm.errors import UserError
from alibi_lm.evaluation.rows import Row
from alibi_lm.settings import missing, out_of_bounds, setting
from alibi_lm.tracking import LENGTH, curve_name

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

INSTALL = "pip install -r requirements-dashboard.txt"
TRAINING = {"loss": "Training loss", "grad_norm": "Norm of the gradient", "lr": "Learning rate"}


@dataclass
class DashboardConfig:
    """Which curves the workspace holds, and where it is saved."""

    results: list[str] = setting([], "folders of runs or sweeps, or files of results; globs")
    entity: str | None = setting(None, "W&B user or team that has the project")
    project: str = setting("alibi_lm", "W&B project")
    group: str | None = setting(None, "show only the runs of this group; null: all")
    dry_run: bool = setting(False, "save nothing, print what it would hold")

    def problems(self) -> list[str]:
        """There must be results, and somebody to whom the workspace belongs."""
        problems = out_of_bounds(self) + missing(self, {"results": "[outputs/repro]"})
        if not self.entity and not self.dry_run:
            problems.append("entity: not given; name the W&B user or team that has the project")
        return problems


def build_workspace(
    rows: Sequence[Row], entity: str, project: str, group: str | None = None
) -> "Workspace":
    """The workspace, not yet saved; a UserError if its library is not installed.

    group: show the runs of one sweep only.
    """
    try:
        from wandb_workspaces import workspaces as ws
        from wandb_workspaces.reports import v2 as panels
    except ImportError as error:
        raise UserError(f"wandb-workspaces is not installed: {INSTALL}") from error

    curves = list(dict.fromkeys(row.measurement.curve for row in rows))
    by_length = [
        panels.LinePlot(
            title=f"Perplexity by evaluation length, {curve}",
            x=LENGTH,
            y=[curve_name(curve, "ppl")],
            log_x=True,
            log_y=True,
            title_x="evaluation length",
            title_y="perplexity",
        )
        for curve in curves
    ]
    training = [
        panels.LinePlot(
            title=title, x="train/tokens", y=[f"train/{name}"], title_x="training tokens"
        )
        for name, title in TRAINING.items()
    ]
    filters = [ws.Metric("JobType") == "train"]
    if group is not None:
        filters.append(ws.Metric("Group") == group)
    groups = [ws.Config("family"), ws.Config("position.kind")]
    if len({(row.position, row.variant) for row in rows}) > len({row.position for row in rows}):
        groups.append(ws.Config("variant"))
    if len({row.train_length for row in rows}) > 1:
        groups.append(ws.Config("train_length"))
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Train short, test long" + (f": {group}" if group else ""),
        sections=[
            ws.Section(name="Extrapolation", panels=by_length, is_open=True),
            ws.Section(name="Training", panels=training, is_open=True),
        ],
        runset_settings=ws.RunsetSettings(filters=ws.And(*filters), groupby=groups),
    )


def save(workspace: "Workspace") -> str:
    """Save it at W&B, for which one must be logged in; returns its address."""
    try:
        return str(workspace.save().url)
    except Exception as error:  # of many kinds: no account, no network, no such project
        reason = " ".join(str(error).split())
        raise UserError(
            f"W&B did not take the workspace: {reason}; see that `wandb login` was done and "
            f"that {workspace.entity}/{workspace.project} exists (tracking=online and `wandb sync` "
            "make it)"
        ) from error


def outline(workspace: "Workspace") -> str:
    """What a workspace that was built here holds, as text."""
    from wandb_workspaces.reports.v2 import LinePlot

    lines = [f"{workspace.entity}/{workspace.project}: {workspace.name}"]
    settings = workspace.runset_settings
    lines.append("  runs grouped by " + ", ".join(group.name for group in settings.groupby))
    for section in workspace.sections:
        lines.append(f"  {section.name}")
        for panel in section.panels:
            assert isinstance(panel, LinePlot)
            lines.append(f"    {panel.title}: {', '.join(map(str, panel.y))} over {panel.x}")
    return "\n".join(lines)
