"""What the documents say holds: their commands compose, their table names every scheme."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from alibi_lm import cli
from alibi_lm.positions import SCHEMES

ROOT = Path(__file__).resolve().parent.parent


def commands(text: str) -> list[list[str]]:
    """The words of every command that runs a script, with the shell variables that it names."""
    text = text.replace("\\\n", " ")
    for name, value in re.findall(r'^([A-Z]+)="([^"]*)"', text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    lines = re.findall(r"^ *(?:.*-- +)?(?:python|torchrun .*?) (scripts/.*)", text, re.MULTILINE)
    # Scripts' docstrings explain a command in brackets behind it.
    found = [shlex.split(re.sub(r" {2,}\(.*", "", line), comments=True) for line in lines]
    return [words for words in found if not {"...", "position=nope"} & {*words}]


DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "experiments/*/README.md", "scripts/*.py")
    for path in sorted(ROOT.glob(pattern))
    if commands(path.read_text(encoding="utf-8"))
]


def first(word: str) -> str:
    """Of a sweep's word that of its first member."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    if override.is_interval_sweep():
        return f"{override.key_or_group}={override.value().start}"
    return f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"


@pytest.fixture(scope="module")
def scripts() -> dict[str, tuple[Any, str]]:
    """The settings of each script and the file of their defaults."""
    found: dict[str, tuple[Any, str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for path in (ROOT / "scripts").glob("*.py"):

            def note(
                doc: str, kind: Any, task: Any, name: str = "config", at: str = path.name
            ) -> None:
                found[f"scripts/{at}"] = (kind, name)

            patch.setattr(cli, "command", note)
            runpy.run_path(str(path), run_name="__main__")
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_composes(path: Path, scripts: dict[str, tuple[Any, str]]) -> None:
    for script, *words in commands(path.read_text(encoding="utf-8")):
        kind, name = scripts[script]
        given, words = cli.plain_settings(words, kind)
        cli.register(kind, given=given)
        # README's own scheme is registered, and run, in test_adding.py.
        words = [w.replace("SCHEME", "alibi").replace("=mine", "=none") for w in words]
        words = [
            first(w) for w in words if not w.startswith(("-", "hydra/sweeper", "hydra.sweeper"))
        ]
        with initialize_config_dir(str(cli.CONFIGS), version_base="1.3"):
            values = compose(name, words)
        assert isinstance(OmegaConf.to_object(values), kind), (script, words)


def test_the_readme_names_every_scheme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- schemes: short -->")[2].partition("<!-- end -->")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(SCHEMES.made)
    assert set(re.findall(r"\w+", table)) > set(SCHEMES.choices)


def test_the_page_of_schemes_is_made_from_them() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "schemes.py"))
    for path, text in script["pages"](script["SchemesConfig"]()).items():
        assert path.read_text(encoding="utf-8") == text, "python scripts/schemes.py writes it"


def test_documents_are_found() -> None:
    found = {path.name for path in DOCUMENTS}
    assert {"README.md", "running.md", "results.md", "sweep.py", "plan.py"} <= found
