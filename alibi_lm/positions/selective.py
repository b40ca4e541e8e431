"""Selective attention: tokens decide, by the first head's logits, what later ones no longer need.

Leviathan, Kalman, Matias (ICLR 2025, arXiv 2410.02703), after lucidrains/x-transformers, a
reimplementation: the authors' code is not public. With S_ij = relu of the first head's logit for
0 < j < i and 0 elsewhere, all heads' logits of query i lose the sum of S_lj over the queries l
before i. No token masks itself, and the first token is never masked. It knows nothing of positions:
those are the base scheme's, one that adds no bias.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alibi_lm.attention.bias import Bias, Block, Form, Needs, OnLogits
from alibi_lm.attention.scored import BLOCK
from alibi_lm.positions.base import SCHEMES, PositionConfig, Sizes
from alibi_lm.positions.based import BasedConfig, BasedPosition
from alibi_lm.settings import setting


@dataclass
class SelectiveConfig(BasedConfig):
    """Settings of selective attention."""

    base: Any = setting("rotary", "the scheme of its positions: a name or {kind:...}")

    def base_problems(self, base: PositionConfig, sizes: Sizes) -> list[str]:
        """The base must not add to the logits."""
        if {n.form for n in SCHEMES.made[base.kind].needs(base, 1)} == {Form.NONE}:
            return []
        return [f"position.base: given {base.kind}, but it must be one that adds no bias"]


@dataclass(frozen=True)
class Selected(OnLogits):
    """The logits less what the queries before have masked."""

    sums: Tensor  # (B, N, T), what the queries before each block masked

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Subtract it from all heads. (B, H, R, C)."""
        own = selection(logits[:, 0], block.i, block.j)
        step, rest = divmod(block.queries.start, BLOCK)
        assert not rest
        before = self.sums[:, step, None, block.j].to(own.dtype) + own.cumsum(1) - own
        return logits - before[:, None]


def selection(logits: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """What each query masks of each key. (B, R, C), (R, 1), (C,) -> (B, R, C)."""
    return F.relu(logits).masked_fill((j >= i) | (j == 0), 0.0)


def selected_by(q: Tensor, k: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """What some queries of the first head, (B, R, K), mask of each key. (B, T)."""
    return selection(q @ k.mT, i, j).sum(1)


@SCHEMES.add("selective", SelectiveConfig)
class Selective(BasedPosition):
    """Selective attention on top of another scheme."""

    title = "Selective"
    family = "on the logits"
    idea = "what the first head's queries select is masked for all queries behind them"
    source = "Leviathan et al. 2025"
    claim = "as good as twice the heads and parameters; nothing on longer texts"

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """A function of the logits in the base's window."""
        return {n._replace(form=Form.ON_LOGITS) for n in super().needs(config, length)}

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The base's queries and keys, and the function of their first head."""
        scale = q.shape[-1] ** -0.5  # of the head, before the base makes q wider
        q, k, bias = super().in_layer(layer, x, q, k, begun)
        length = q.shape[2]
        j = torch.arange(length, device=q.device)
        wide = torch.promote_types(q.dtype, torch.float32)
        q0, k0 = q[:, 0].to(wide) * scale, k[:, 0].to(wide)
        sums = [q0.new_zeros(len(q), length)]
        with torch.autocast(q.device.type, enabled=False):  # as the logits are computed
            for start in range(0, length - BLOCK, BLOCK):
                rows = slice(start, start + BLOCK)
                step = q0[:, rows], k0, j[rows, None], j
                sums.append(sums[-1] + checkpoint(selected_by, *step, use_reentrant=False))
        function = Selected(torch.stack(sums, dim=1))
        return q, k, Bias(on_logits=function, window=bias.window, sinks=bias.sinks)
