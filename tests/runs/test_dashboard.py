import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from samples import ROW

from alibi_lm.evaluation.rows import write_csv
from alibi_lm.runs.dashboard import build_workspace

Script = Callable[..., subprocess.CompletedProcess[str]]


def sent(workspace: Any) -> Any:
    """What W&B is sent, not what we asked for."""
    return json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))[
        "section"
    ]


def test_the_workspace_overlays_schemes_over_evaluation_length() -> None:
    rows = [
        replace(ROW, position=position, eval_length=length)
        for position in ("rotary", "alibi")
        for length in (64, 128)
    ]
    rows += [replace(row, protocol="sliding", stride=16) for row in rows]
    workspace = build_workspace(rows, "team", "project", "repro")
    spec = sent(workspace)
    extrapolation, training = spec["panelBankConfig"]["sections"]
    plots = [panel["config"] for panel in extrapolation["panels"]]
    assert [plot["metrics"] for plot in plots] == [
        ["extrapolation/validation-nonoverlapping/ppl"],
        ["extrapolation/validation-sliding16/ppl"],
    ]
    assert {plot["xAxis"] for plot in plots} == {"extrapolation/length"}
    assert training["panels"][0]["config"]["metrics"] == ["train/loss"]
    (runs,) = spec["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["family.value", "position.value.kind"]
    filters = {f["key"]["name"]: f["value"] for f in runs["filters"]["filters"]}
    assert filters == {"jobType": "train", "group": "repro"}

    rows.append(replace(ROW, train_length=128))
    spec = sent(build_workspace(rows, "team", "project"))
    names = [key["name"] for key in spec["runSets"][0]["grouping"]]
    assert names == ["family.value", "position.value.kind", "train_length.value"]
    rows.append(replace(ROW, variant="scale=2.0"))
    spec = sent(build_workspace(rows, "team", "project"))
    assert [key["name"] for key in spec["runSets"][0]["grouping"]][2] == "variant.value"


def test_script(in_process: Script, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [ROW])
    dry = in_process("dashboard", "results=[rows.csv]", "dry_run=true")
    assert dry.returncode == 0, dry.stderr
    assert "validation-nonoverlapping/ppl over extrapolation/length" in dry.stdout
    nobody = in_process("dashboard", "results=[rows.csv]")
    assert nobody.returncode == 2
    assert nobody.stderr.startswith("error: entity: not given")
