"""Tables as Markdown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Text in cells; `best` are (line, column) of those to mark."""

    head: list[str]
    body: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    texts: int = 1  # columns of words at the left, the others are numbers


def markdown(table: Table, aligned: bool = True) -> str:
    """The table in Markdown, the best cells bold; aligned: to be read as plain text too."""
    body = [
        [f"**{cell}**" if (i, j) in table.best else _escaped(cell) for j, cell in enumerate(line)]
        for i, line in enumerate(table.body)
    ]
    lines = [table.head, *body] if aligned else [["---"] * len(table.head)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.head))]

    def line(cells: list[str]) -> str:
        placed = (
            cell.ljust(width) if i < table.texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(placed) + " |"

    rule = [
        "-" * width if i < table.texts else "-" * (width - 1) + ":"
        for i, width in enumerate(widths)
    ]
    return "\n".join([line(table.head), line(rule), *map(line, body)])


def _escaped(cell: str) -> str:
    """Names are the user's, and a bar or a line end would break the table."""
    return " ".join(cell.split()).replace("|", "\\|")
