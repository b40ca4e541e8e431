"""Write the tables of positional schemes in docs/schemes.md and README.md, from the registry.

  python scripts/schemes.py

Parameters are counted on a model of 12 layers, 12 heads and width 768, trained at 512. What schemes
were compared with, and by how much they differ, is tests/reference/agreement.csv, which
`pytest tests/positions --write-agreement` writes.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from alibi_lm.cli import command
from alibi_lm.errors import UserError
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.progress import say
from alibi_lm.positions import SCHEMES, Sizes
from alibi_lm.report.legend import in_legend_order
from alibi_lm.report.tables import Table, markdown
from alibi_lm.settings import out_of_bounds, setting

ROOT = Path(__file__).resolve().parent.parent
SIZES = Sizes(n_layers=12, n_heads=12, d_model=768, train_length=512)
MARKS = "<!-- schemes: {} -->", "<!-- end -->"


def facts_table(agreement: Path) -> str:
    """A line for each registered scheme: what it is, and what it was compared with."""
    head = ["`position=`", "paper", "adds to attention", "parameters", "needs L"]
    head += ["same prefix, same loss", "compared with", "largest difference"]
    body, known = [], read_agreement(agreement)
    for name in in_legend_order([*SCHEMES.made]):
        made, settings = SCHEMES.made[name], SCHEMES.settings[name]()
        scheme = SCHEMES.build(settings, SIZES)
        forms = sorted({needs.form.value for needs in made.needs(settings, SIZES.train_length)})
        parameters = sum(parameter.numel() for parameter in scheme.parameters())
        line = [f"`{name}`", made.source, ", ".join(forms), f"{parameters:,}"]
        line.append("yes" if made.needs_train_length else "no")
        line.append("yes" if scheme.prefix_consistent else "no")
        body.append([*line, *known.get(name, ("nothing: it has no numbers", "-"))])
    return markdown(Table(head, body, texts=len(head)), aligned=False)


def read_agreement(path: Path) -> dict[str, tuple[str, str]]:
    """By scheme, whose code it was compared with in all its forms, and the largest difference."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for scheme in dict.fromkeys(row["scheme"].split()[0] for row in rows):
        of_scheme = [row for row in rows if row["scheme"].split()[0] == scheme]
        by = ", ".join(dict.fromkeys(row["computed by"] for row in of_scheme))
        found[scheme] = by, f"{max(float(row['difference']) for row in of_scheme):.1e}"
    return found


def claims_table() -> str:
    """A line for each registered scheme: how it knows positions, and what its paper claims."""
    head = ["`position=`", "how the model knows positions", "what its paper says of longer texts"]
    made = ((name, SCHEMES.made[name]) for name in in_legend_order([*SCHEMES.made]))
    body = [[f"`{name}`", scheme.idea, scheme.claim] for name, scheme in made]
    return markdown(Table(head, body, texts=len(head)), aligned=False)


def short_table() -> str:
    """A line for each family: its schemes, and settings of them that have a name."""
    of: dict[str, list[str]] = {}
    for name in in_legend_order([*SCHEMES.made]):
        of.setdefault(SCHEMES.made[name].family, []).append(f"`{name}`")
    for name, named in SCHEMES.named.items():
        of[SCHEMES.made[named.settings.kind].family].append(f"{name}")
    body = [[family, ", ".join(names)] for family, names in of.items()]
    return markdown(Table(["what it is", "`position=`"], body, texts=2), aligned=False)


@dataclass
class SchemesConfig:
    """The pages that hold the tables."""

    page: str = setting(str(ROOT / "docs" / "schemes.md"), "page of the facts and of the claims")
    readme: str = setting(str(ROOT / "README.md"), "page of the short table")
    agreement: str = setting(
        str(ROOT / "tests" / "reference" / "agreement.csv"), "what schemes were compared with"
    )

    def problems(self) -> list[str]:
        """The files must be there."""
        problems = out_of_bounds(self)
        for name in ("page", "readme", "agreement"):
            if not Path(getattr(self, name)).is_file():
                problems.append(f"{name}: given {getattr(self, name)}, which is not a file")
        return problems


def pages(config: SchemesConfig) -> dict[Path, str]:
    """Each page with its tables between their marks; a UserError if marks are missing."""
    facts = facts_table(Path(config.agreement))
    wanted = {
        config.page: {"facts": facts, "claims": claims_table()},
        config.readme: {"short": short_table()},
    }
    made = {}
    for page, tables in wanted.items():
        text = Path(page).read_text(encoding="utf-8")
        for name, table in tables.items():
            begin, end = MARKS[0].format(name), MARKS[1]
            if begin not in text or end not in text.partition(begin)[2]:
                raise UserError(f"{page} has not the lines {begin} and {end}")
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
        made[Path(page)] = text
    return made


def write(config: SchemesConfig) -> None:
    """Make the tables again, write the pages."""
    for path, text in pages(config).items():
        write_atomically(path, text)
        say(f"written: {path}")


if __name__ == "__main__":
    command(__doc__, SchemesConfig, write, "base")
