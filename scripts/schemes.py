"""Write docs/schemes.md, the table of all positional schemes, from what each says of itself.

  python scripts/schemes.py

Parameters are counted on a model of 12 layers, 12 heads and width 768, trained at 512.
"""

from dataclasses import dataclass
from pathlib import Path

from alibi_lm.cli import command
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.progress import say
from alibi_lm.positions import SCHEMES, Sizes
from alibi_lm.report.legend import in_legend_order
from alibi_lm.report.tables import Table, markdown
from alibi_lm.settings import out_of_bounds, setting

PAGE = Path(__file__).resolve().parent.parent / "docs" / "schemes.md"
SIZES = Sizes(n_layers=12, n_heads=12, d_model=768, train_length=512)
BEGIN, END = "<!-- made by scripts/schemes.py -->", "<!-- end -->"


def schemes_table() -> str:
    """A line for each registered scheme, as Markdown."""
    head = ["`position=`", "how the model knows positions", "source", "adds to attention"]
    head += ["parameters", "needs L", "same prefix, same loss", "what its paper claims"]
    body = []
    for name in in_legend_order([*SCHEMES.made]):
        made, settings = SCHEMES.made[name], SCHEMES.settings[name]()
        scheme = SCHEMES.build(settings, SIZES)
        forms = sorted({needs.form.value for needs in made.needs(settings, SIZES.train_length)})
        parameters = sum(parameter.numel() for parameter in scheme.parameters())
        needs_length = "yes" if made.needs_train_length else "no"
        consistent = "yes" if scheme.prefix_consistent else "no"
        line = [f"`{name}`", made.idea, made.source, ", ".join(forms), f"{parameters:,}"]
        body.append([*line, needs_length, consistent, made.claim])
    return markdown(Table(head, body, texts=len(head)), aligned=False)


def page(text: str) -> str:
    """The page with the table between its two marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{schemes_table()}\n\n{END}{rest.partition(END)[2]}"


@dataclass
class SchemesConfig:
    """Where the table is."""

    page: str = setting(str(PAGE), "page with the marks between which it stands")

    def problems(self) -> list[str]:
        """The page must be there."""
        problems = out_of_bounds(self)
        if not Path(self.page).is_file():
            problems.append(f"page: given {self.page}, which is not a file")
        elif not (BEGIN in (text := Path(self.page).read_text(encoding="utf-8")) and END in text):
            problems.append(f"page: given {self.page}, which has not the lines {BEGIN} and {END}")
        return problems


def write(config: SchemesConfig) -> None:
    """Make the table again, write the page."""
    path = Path(config.page)
    write_atomically(path, page(path.read_text(encoding="utf-8")))
    say(f"written: {path}")


if __name__ == "__main__":
    command(__doc__, SchemesConfig, write, "base")
