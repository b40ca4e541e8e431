"""What a positional bias looks like: its matrix for each head, and the attention it leaves afar.

The matrix is what is added to the scaled attention logits. What it leaves for a far token is shown
for a query to which all keys are equally similar: without a bias each of its n keys gets 1 / n;
with one, the key at distance d gets exp(bias(d)) over the sum of all.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alibi_lm.errors import UserError
from alibi_lm.positions import SCHEMES, Sizes
from alibi_lm.report.legend import title
from alibi_lm.runs.folder import open_folder
from alibi_lm.settings import missing, out_of_bounds, setting, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_COLOURS = "viridis"
DARKEST = -8.0  # biases below leave less than 1/2,900 of the attention and look alike
FAINTEST = 1e-6  # attention below is not drawn


@dataclass(frozen=True)
class BiasMatrix:
    """A scheme's bias over some length. (H, T, T), -inf for the future."""

    title: str
    matrix: Tensor


@dataclass
class BiasConfig:
    """Whose biases are drawn, and how."""

    sources: list[str] = setting([], "run folders, or names of schemes")
    length: int = setting(128, "positions shown", at_least=2, below=2049)
    n_heads: int = setting(8, "attention heads of schemes by name", at_least=1, below=65)
    output: str = setting("outputs/bias", "folder for bias.png and bias.svg")

    def problems(self) -> list[str]:
        """There must be something to draw."""
        return out_of_bounds(self) + missing(self, {"sources": "[t5,alibi]"})


def bias_matrix(source: str, length: int, n_heads: int) -> BiasMatrix:
    """The bias of a run folder's model, or of a scheme by name with that many heads.

    A UserError if the source is neither, or its scheme has no bias.
    """
    folder = Path(source)
    if folder.is_dir():
        run = open_folder(folder)
        config = run.read_config()
        name = config.position.kind
        position = SCHEMES.build(config.position, config.model.sizes)
        run.load_weights(position, part="position.")
        heading = f"{title(name)}, trained at {config.train_length:,} ({folder.name})"
    elif source in SCHEMES.settings:
        name = source
        position = SCHEMES.build(SCHEMES.settings[name](), Sizes(1, n_heads, 64 * n_heads))
        for parameter_name, parameter in position.named_parameters():
            generator = torch.Generator().manual_seed(0)
            position.initialize(parameter_name, parameter.data, generator)
        learned = any(True for _ in position.parameters())
        heading = title(name) + (", untrained: its initial values" if learned else "")
    else:
        raise UserError(f"{unknown('scheme', source, list(SCHEMES.settings))}, or a run folder")
    with torch.no_grad():
        bias = position.bias(length)
    if bias.by_distance is None and bias.by_key is None:
        raise UserError(f"{source}: position={name} adds no bias to attention: nothing to draw")
    return BiasMatrix(heading, bias.matrix(length))


def attention_left(matrix: Tensor) -> Tensor:
    """The attention of the last query by distance, all keys being equally similar. (H, T)."""
    return matrix[:, -1].flip(-1).softmax(-1)


def bias_figure(biases: list[BiasMatrix]) -> "Figure":
    """A row for each bias: a lower triangle for each head, then the attention left by distance."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = max(len(bias.matrix) for bias in biases)
    fig = Figure(figsize=(1.75 * n_columns + 4.6, 2.75 * len(biases)), layout="constrained")
    FigureCanvasAgg(fig)
    rows = fig.subfigures(len(biases), 1, squeeze=False)[:, 0]
    for row, bias in zip(rows, biases, strict=True):
        row.suptitle(bias.title, fontsize=10, x=0.01, ha="left", parse_math=False)
        n_heads, length, _ = bias.matrix.shape
        axes = row.subplots(1, n_columns + 1, width_ratios=[1] * n_columns + [2.2], squeeze=False)
        finite = bias.matrix[bias.matrix.isfinite()]
        low, high = max(float(finite.min()), DARKEST), float(finite.max())
        for head, panel in enumerate(axes[0, :-1]):
            if head >= n_heads:
                panel.set_visible(False)
                continue
            values = bias.matrix[head].masked_fill(bias.matrix[head].isinf(), math.nan)
            image = panel.imshow(
                values.numpy(), vmin=low, vmax=high, cmap="magma", interpolation="nearest"
            )
            panel.set_title(f"head {head + 1}", fontsize=8, color="0.3")
            panel.set_xticks([0, length - 1], ["1", f"{length:,}"], fontsize=7)
            panel.set_yticks([0, length - 1], ["1", f"{length:,}"] if head == 0 else [], fontsize=7)
            panel.spines[["top", "right"]].set_visible(False)
            if head == 0:
                panel.set_ylabel("query", fontsize=8)
            panel.set_xlabel("key", fontsize=8, labelpad=-6)
        beyond = "min" if float(finite.min()) < low else "neither"
        bar = row.colorbar(
            image, ax=list(axes[0, :n_heads]), shrink=0.7, pad=0.01, aspect=14, extend=beyond
        )
        bar.ax.tick_params(labelsize=7)
        curves = axes[0, -1]
        distances = np.arange(1, length + 1)
        for head, left in enumerate(attention_left(bias.matrix).numpy()):
            shade = colormaps[LINE_COLOURS](head / max(n_heads - 1, 1) * 0.9)
            seen = left > FAINTEST
            curves.plot(distances[seen], left[seen], color=shade, linewidth=1.3, label=head + 1)
        curves.axhline(1 / length, color="0.5", linestyle=(0, (2, 2)), linewidth=1)
        curves.annotate(
            "without a bias ",
            (length, 1 / length),
            fontsize=7,
            color="0.4",
            va="bottom",
            ha="right",
        )
        curves.set_xscale("log", base=2)
        curves.set_yscale("log")
        faintest = min(float(left[left > FAINTEST].min()) for left in attention_left(bias.matrix))
        curves.set_ylim(bottom=10 ** math.floor(math.log10(faintest)), top=1.5)
        curves.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"], fontsize=7)
        curves.set_xlim(1, length)
        curves.tick_params(labelsize=7)
        curves.minorticks_off()
        curves.set_xlabel("keys back, itself the first", fontsize=8)
        curves.set_title("attention left for a key", fontsize=8, color="0.3")
        curves.legend(title="head", fontsize=6, title_fontsize=6, frameon=False, loc="lower left")
        curves.spines[["top", "right"]].set_visible(False)
    return fig
