"""Write experiments/README.md, the table of all experiments, from what each folder says of itself.

  python scripts/index.py

Every folder of experiments/ has a README.md in which one paragraph begins with "**Question.**" and
one with "**Answer.**".
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from alibi_lm.cli import command
from alibi_lm.errors import UserError
from alibi_lm.machine import installation
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.progress import say
from alibi_lm.report.tables import Table, markdown
from alibi_lm.settings import setting

EXPERIMENTS = installation.folder("experiments")
HEAD = """# Experiments

A folder for each: the claim, the command, the published numbers where there are any, what was
measured and at which scale, and the figure. `python scripts/index.py` writes this table.

"""


def index(folder: Path) -> str:
    """The table of the folder's experiments as Markdown; a UserError if one does not say."""
    body = []
    for page in sorted(folder.glob("*/README.md")):
        said = [_said(page, "Question"), _said(page, "Answer")]
        body.append([f"[{page.parent.name}]({page.parent.name}/README.md)", *said])
    head = ["folder", "question", "answer at the scale it was measured"]
    return HEAD + markdown(Table(head, body, texts=3), aligned=False) + "\n"


def _said(page: Path, what: str) -> str:
    for paragraph in page.read_text(encoding="utf-8").split("\n\n"):
        if paragraph.startswith(f"**{what}.** "):
            said = " ".join(paragraph.removeprefix(f"**{what}.** ").split())
            return re.sub(r"\]\((?!https?:)(.+?)\)", lambda link: _from_index(page, link[1]), said)
    raise UserError(f'{page} has no paragraph that begins with "**{what}.** "')


def _from_index(page: Path, target: str) -> str:
    return f"]({os.path.normpath(Path(page.parent.name, target))})"


@dataclass
class IndexConfig:
    """Which experiments are listed."""

    folder: str = setting(str(EXPERIMENTS), "folder of experiments")

    def problems(self) -> list[str]:
        """The folder must be there."""
        there = Path(self.folder).is_dir()
        return [] if there else [f"folder: given {self.folder}, which is not a folder"]


def write(config: IndexConfig) -> None:
    """Write the table."""
    folder = Path(config.folder)
    write_atomically(folder / "README.md", index(folder))
    say(f"written: {folder / 'README.md'}")


if __name__ == "__main__":
    command(__doc__, IndexConfig, write, "base")
