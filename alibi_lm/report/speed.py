"""A benchmark's rows as a table, and as a figure against the paper's Table 1."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alibi_lm.benchmark.rows import EVALUATION, OURS, TRAINING, Speed
from alibi_lm.report.legend import in_legend_order, style, title
from alibi_lm.report.published import SOURCE, table_1
from alibi_lm.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = dict[int, float]  # by length
BASE = "sinusoidal"  # the paper's baseline, to which the figure relates the others


def speed_table(rows: Sequence[Speed]) -> Table:
    """A line for each row: speed, time and memory against `none`, and against a peer."""
    first_steps = any(row.compile for row in rows)
    head = ["phase", "position", "library", "attention", "length", "tokens/s", "time / none"]
    head += ["peak MiB", "memory / none", "share of limit", "times as long as ours"]
    head += ["first step, s"] if first_steps else []
    body = []
    for row in rows:
        line = [row.phase, row.position, row.library, row.backend, f"{row.length:,}"]
        if row.is_complete:
            memory = None if row.peak_memory_bytes is None else row.peak_memory_bytes / 2**20
            line += [_number(row.tokens_per_second, ",.0f"), _number(row.time_ratio, ".3f")]
            line += [_number(memory, ",.0f"), _number(row.memory_ratio, ".3f")]
            line += [_number(row.share, ".0%"), _number(row.time_ratio_to_ours, ".2f")]
            line += [_number(row.first_step_seconds, ".1f")] if first_steps else []
        else:
            line += ["OOM"] + [""] * (len(head) - len(line) - 1)
        body.append(line)
    return Table(head, body, texts=4)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def speed_note(rows: Sequence[Speed]) -> str:
    """What the numbers are of: rows of one call of the benchmark."""
    row = rows[0]
    where = row.cpu if row.device == "cpu" else f"{row.device}; {row.cpu}"
    limits = _range([r.limit_flops_per_second / 1e9 for r in rows])
    how = [name for name in ("compile", "checkpointing") if any(getattr(r, name) for r in rows)]
    code = (
        f"commit {row.version[:10]}{' with changes' if row.dirty else ''}, " if row.version else ""
    )
    return (
        f"{row.model}; vocabulary {row.vocab_size:,}; {', '.join([row.dtype, *how])}; steps of "
        f"{_range([r.tokens for r in rows])} tokens; medians of {row.rounds} rounds in turns. "
        f"{where}, {row.threads} threads, {code}torch {row.torch}. Limit of the share: {limits} "
        f"GFLOP/s ({row.limit}). Peak memory: bytes of weights, optimizer state and of all that a "
        "step holds at once."
    )


def _range(values: Sequence[float]) -> str:
    ends = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return " to ".join(dict.fromkeys(ends))


def speed_figure(rows: Sequence[Speed]) -> "Figure | None":
    """Speed in both phases and memory in training, as ratios to sinusoidal; the paper dashed.

    None if sinusoidal was not measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paper = table_1()
    panels = [
        (
            "Training speed",
            _ratios(rows, TRAINING, "tokens_per_second"),
            _related({key: line.train_words_per_second for key, line in paper.items()}),
        ),
        (
            "Evaluation speed",
            _ratios(rows, EVALUATION, "tokens_per_second"),
            _related({key: line.eval_words_per_second for key, line in paper.items()}),
        ),
        (
            "Peak memory in training",
            _ratios(rows, TRAINING, "peak_memory_bytes"),
            _related({key: line.train_memory_gb for key, line in paper.items()}),
        ),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None
    fig = Figure(figsize=(4.6 * len(panels), 4.0), layout="constrained")
    FigureCanvasAgg(fig)
    for column, (heading, ours, theirs) in enumerate(panels, start=1):
        axes = fig.add_subplot(1, len(panels), column)
        _draw(axes, heading, ours, theirs)
    names = {position for _, ours, _ in panels for position in ours}
    handles = [
        axes.plot([], [], color=style(n).colour, marker=style(n).marker, label=title(n))[0]
        for n in in_legend_order([*names])
    ]
    handles.append(axes.plot([], [], "--", color="#777777", label=f"{SOURCE}, table 1")[0])
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return fig


def _ratios(rows: Sequence[Speed], phase: str, column: str) -> dict[str, Points]:
    """A column of our own models by scheme and length, as ratios to sinusoidal."""
    values: dict[tuple[str, int], float] = {
        (row.position, row.length): getattr(row, column)
        for row in rows
        if row.library == OURS and row.phase == phase and row.is_complete
    }
    if column == "tokens_per_second":
        # From ratios taken within rounds, which a drifting machine leaves alone.
        within = {
            (row.position, row.length): 1 / row.time_ratio
            for row in rows
            if row.library == OURS and row.phase == phase and row.time_ratio
        }
        values = within if len(within) == len(values) else values
    return _related(values)


def _related(values: dict[tuple[str, int], float]) -> dict[str, Points]:
    """Values by scheme and length, as ratios to sinusoidal's at that length."""
    found: dict[str, Points] = {}
    for (position, length), value in values.items():
        if base := values.get((BASE, length)):
            found.setdefault(position, {})[length] = value / base
    return found


def _draw(axes: "Axes", heading: str, ours: dict[str, Points], theirs: dict[str, Points]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    for position, points in theirs.items():
        if position in ours:
            line = list(points), list(points.values())
            axes.plot(*line, "--", color=style(position).colour, alpha=0.7, linewidth=1.2)
    for position, points in ours.items():
        line, drawn = (list(points), list(points.values())), style(position)
        axes.plot(*line, color=drawn.colour, marker=drawn.marker, markersize=5, linewidth=1.8)
    lengths = sorted({length for points in ours.values() for length in points})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("Length (tokens)")
    axes.set_ylabel("Relative to sinusoidal")
    axes.set_title(heading, loc="left", fontsize=10)
