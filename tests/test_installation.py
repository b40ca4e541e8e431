"""The wheel that `pip install .` builds, used from an empty folder; and completion in a shell."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAIN = "import sys; from alibi_lm.cli import main; sys.argv[0] = 'alibi-lm'; main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", *build, str(ROOT)], check=True)
    (wheel,) = folder.glob("alibi_lm-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def call(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MAIN, *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_wheel_has_commands_configuration_and_published_numbers(
    installed: Path, on_text: list[str], tmp_path: Path
) -> None:
    assert "alibi-lm = alibi_lm.cli:main" in next(installed.glob("*/entry_points.txt")).read_text()
    sweep = ["sweep", *on_text, "experiment=quickstart", "position=none,alibi", "output=out"]
    sweep += ["train_length=16", "evaluation.lengths=[16]", "evaluation.targets=4"]
    done = call(installed, tmp_path, *sweep)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").exists()
    report = call(installed, tmp_path, "report", "results=[out]", "published=true", "output=both")
    assert report.returncode == 0, report.stderr
    assert "Press et al. 2022" in (tmp_path / "both" / "report.html").read_text()


def test_the_one_command(installed: Path, tmp_path: Path) -> None:
    asked = call(installed, tmp_path)
    assert asked.returncode == 0
    scripts = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
    scripts = [name for name in scripts if name not in ("index", "schemes")]
    assert f"commands: {', '.join(scripts)}\n" in asked.stdout
    wrong = call(installed, tmp_path, "swep")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: command 'swep' does not exist (did you mean sweep?)")
    shown = call(installed, tmp_path, "sweep", "--help")
    assert "  alibi-lm sweep position=none,alibi" in shown.stdout
    assert "scripts/" not in shown.stdout


@pytest.mark.parametrize("script", ["train", "sweep"])
def test_completion_in_a_shell(script: str, tmp_path: Path) -> None:
    if (bash := shutil.which("bash")) is None:
        pytest.skip("needs bash")
    program = f"""
        eval "$(python scripts/{script}.py -sc install=bash)"
        COMP_LINE="python scripts/{script}.py position=stre"; COMP_POINT=${{#COMP_LINE}}
        COMP_WORDS=($COMP_LINE); COMP_CWORD=2
        hydra_bash_completion
        echo "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["position=streaming"]
