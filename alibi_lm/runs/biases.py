"""What a positional scheme does to attention: its matrix for each head, and what it leaves afar.

The matrix is what is added to the scaled logits of a layer, on a real text where it depends on what
the tokens are. A rotation adds nothing that is the same for all queries and keys: it is shown for
queries and keys that are all ones. Stick-breaking has no softmax: what is shown is what the
logarithms of its weights have beyond the logits. Embeddings act below the layers: their similarity
is shown.

What it leaves for a far token is shown for a query to which all keys are equally similar: without a
bias each of its n keys gets 1 / n; with one, the key at distance d gets exp(bias(d)) over the sum
of all.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alibi_lm.attention import Form, OnLogits
from alibi_lm.attention.reference import logits_of, weights_of
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES, PositionConfig
from alibi_lm.positions.spec import label, read_spec
from alibi_lm.report.legend import title
from alibi_lm.runs.folder import load_run
from alibi_lm.runs.train import build_model
from alibi_lm.settings import missing, out_of_bounds, setting, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_COLOURS = "viridis"
DARKEST = -8.0  # biases below leave less than 1/2,900 of the attention and look alike
FAINTEST = 1e-6  # attention below is not drawn


@dataclass(frozen=True)
class BiasMatrix:
    """What a scheme adds over some length. (H, T, T), -inf for keys that are not seen."""

    title: str
    matrix: Tensor
    is_added: bool = True  # to logits; False: the similarity of embeddings


@dataclass
class BiasConfig:
    """Whose biases are drawn, and how."""

    sources: list[Any] = setting([], "run folders, or schemes: names or {kind:...}")
    length: int = setting(128, "positions shown", at_least=2, below=2049)
    layer: int = setting(1, "layer of a run, counted from 1", at_least=1)
    n_heads: int = setting(8, "attention heads of schemes by name", at_least=1, below=65)
    output: str = setting("outputs/bias", "folder for bias.png and bias.svg")

    def problems(self) -> list[str]:
        """There must be something to draw."""
        return out_of_bounds(self) + missing(self, {"sources": "[t5,alibi]"})


def bias_matrix(source: Any, length: int, n_heads: int, layer: int = 1) -> BiasMatrix:
    """The bias of a layer of a run folder's model, or of a scheme by its spec, with so many heads.

    A UserError if the source is neither, or cannot read that length.
    """
    folder = Path(source) if isinstance(source, str) else Path()
    if isinstance(source, str) and folder.is_dir():
        run = load_run(folder)
        config = run.training
        model = build_model(run, seed=None, backend="auto")
        run.load_weights(model)
        stream = run.data.split("validation").stream[:length]
        heading = f"{_title(config.position)}, trained at {config.train_length:,} ({folder.name})"
        if layer > config.model.n_layers:
            raise UserError(
                f"layer: given {layer}, but {source} has {config.model.n_layers} layers"
            )
        heading += f", layer {layer}" if config.model.n_layers > 1 else ""
    else:
        if isinstance(source, str) and source not in SCHEMES.choices:
            known = SCHEMES.choices
            raise UserError(f"{unknown('scheme', source, known)}, or a run folder")
        settings, layer = read_spec(source, "sources"), 1
        sizes = ModelConfig(n_layers=1, n_heads=n_heads, d_model=64 * n_heads, d_ff=64)
        if problems := settings.problems(sizes.sizes(length)):
            raise SettingsError([f"sources: {problem}" for problem in problems])
        model = Decoder(sizes, settings, 256, train_length=length)
        # A real text, which is there.
        stream = np.frombuffer(Path(__file__).read_bytes(), np.uint8)[:length]
        learned = any(True for _ in model.position.parameters())
        heading = _title(settings)
        heading += ", untrained: its initial values" if learned else ""
    if model.longest is not None and length > model.longest:
        raise UserError(f"length: given {length}, but {source} has {model.longest} positions")
    if len(stream) < length:
        raise UserError(
            f"length: given {length}, but the text of {source} has {len(stream)} tokens"
        )
    tokens = torch.from_numpy(stream.astype(np.int64))[None]
    added = _added(model.eval(), tokens, layer - 1)
    if added[added.isfinite()].abs().max() < FAINTEST and added[:, -1].isfinite().all():
        if (similarity := _similarity(model, tokens)) is not None:
            return BiasMatrix(f"{heading}: similarity of embeddings", similarity, is_added=False)
        heading += ": adds nothing"
    return BiasMatrix(heading, added)


def _title(settings: PositionConfig) -> str:
    return title(settings.kind) + label(settings).removeprefix(settings.kind)


@torch.no_grad()
def _added(model: Decoder, tokens: Tensor, layer: int) -> Tensor:
    """What the scheme adds to the logits of a layer. (H, T, T)."""
    seen: dict[int, Any] = {}
    hook = model.position.register_forward_pre_hook(lambda _, given: seen.update({given[0]: given}))
    model(tokens, tokens)
    hook.remove()
    number, x, q, k, begun = seen[layer]
    turned_q, turned_k, bias = model.position(number, x, q, k, begun)
    plain = logits_of(turned_q, turned_k, q)
    if bias.needs.form is Form.NONE:
        q = k = torch.ones_like(q)
        plain = logits_of(q, k, q)
        turned_q, turned_k, bias = model.position(number, x, q, k, begun)
    added = logits_of(turned_q, turned_k, q, bias) - plain
    if bias.on_logits is not None and type(bias.on_logits).weights is not OnLogits.weights:
        added = weights_of(turned_q, turned_k, q, bias).clamp(min=1e-30).log() - plain
        added = added - added.amax(-1, keepdim=True)
    j = torch.arange(tokens.shape[1])
    return added.masked_fill(~bias.visible(j[:, None], j), -math.inf)[0].float()


@torch.no_grad()
def _similarity(model: Decoder, tokens: Tensor) -> Tensor | None:
    """The cosines between what the scheme adds to the embeddings; None if nothing. (1, T, T)."""
    begun = model.position.begin(model.position.positions(tokens, None))
    added = model.position.embed(torch.zeros(*tokens.shape, model.d_model), begun)[0]
    if not added.any():
        return None
    units = added / added.norm(dim=-1, keepdim=True)
    future = torch.ones(len(units), len(units), dtype=torch.bool).triu(1)
    similar: Tensor = (units @ units.mT).masked_fill(future, -math.inf)
    return similar[None]


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
        low = low if low < high else high - 1  # of one value
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
        if not bias.is_added:
            curves.set_visible(False)
            continue
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
