"""PaTH: between key and query, a product of reflections that the tokens between decide.

Yang et al., "PaTH Attention" (2025, arXiv 2505.16381), after fla-org/flash-linear-attention: the
logit is k_j^T H_(j+1) ... H_i q_i / sqrt(K), with H_t = I - beta_t w_t w_t^T. w_t comes from the
layer's input by a map of low rank, a causal convolution over `taps` tokens and silu, and has length
1 in each head; beta_t = 2 sigmoid(u . x_t + b). `forget=true` (PaTH-FoX) adds FoX's sum of log
gates to the logit before it is divided by sqrt(K), unlike FoX itself.

Computed in chunks: products of reflections are I less a matrix of rank CHUNK, whose coefficients
solve a triangular system; each chunk's product carries queries to the keys of earlier chunks.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Block, Form, OnLogits
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes, split_heads
from alibi_lm.positions.projections import draw_projection, projections
from alibi_lm.settings import setting

CHUNK = 64  # tokens
EPS = 1e-6


@dataclass
class PathConfig(PositionConfig):
    """Settings of PaTH."""

    rank: int = setting(32, "of the map to reflections", at_least=1)
    taps: int = setting(3, "tokens that the convolution sees", at_least=1)
    forget: bool = setting(False, "a forget gate for each head, as FoX has it (PaTH-FoX)")


@dataclass(frozen=True)
class Reflections(OnLogits):
    """Logits of queries that are reflected on their way to the keys."""

    q: Tensor  # (B, H, T, K)
    k: Tensor
    w: Tensor  # (B, H, N, C, K), of N chunks of C tokens
    solved: Tensor  # (B, H, N, C, C), coefficients of the reflections by q . w
    keys: Tensor  # (B, H, N, C, K), as queries from later chunks see them
    products: Tensor  # (B, H, N, K, K), of the reflections of a chunk
    added: Tensor | None  # (B, H, T), float64, sums of log gates

    @property
    def size(self) -> int:
        """Tokens of a chunk."""
        return self.w.shape[-2]

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """In place of the plain ones. (B, H, R, C)."""
        first, last = block.queries.start, block.queries.stop
        starts = range(first, last, self.size)
        rows = [self._rows(slice(i, min(i + self.size, last))) for i in starts]
        width = max(part.shape[-1] for part in rows)
        found = torch.cat([F.pad(part, (0, width - part.shape[-1])) for part in rows], dim=-2)
        found = found[..., block.j].to(logits.dtype)
        if self.added is not None:
            sums = self.added - self.added[..., first : first + 1]
            sums = sums.to(logits.dtype)
            found = found + sums[..., block.queries, None] - sums[..., None, block.j]
        scaled: Tensor = found * self.q.shape[-1] ** -0.5
        return scaled

    def _rows(self, rows: slice) -> Tensor:
        """A chunk of queries against all keys up to its end. (B, H, R, C)."""
        chunk = rows.start // self.size
        q, k = self.q[:, :, rows], self.k[:, :, rows]
        n = q.shape[-2]
        w, solved = self.w[:, :, chunk, :n], self.solved[:, :, chunk, :n, :n]
        # The coefficients of each query's own reflection and of those before it in the chunk.
        coefficients = (q @ w.mT).tril() @ solved
        parts = [q @ k.mT - coefficients @ (w @ k.mT).tril(-1)]
        q = q - coefficients @ w
        for earlier in range(chunk - 1, -1, -1):
            parts.append(q @ self.keys[:, :, earlier].mT)
            q = q @ self.products[:, :, earlier]
        return torch.cat(parts[::-1], dim=-1)


def reflections(
    q: Tensor, k: Tensor, w: Tensor, beta: Tensor, added: Tensor | None = None
) -> Reflections:
    """The function for reflections along w (B, H, T, K) of length 1, with beta (B, H, T)."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, w, beta = (x.to(wide) for x in (q, k, w, beta))
    size = min(CHUNK, q.shape[2])
    fill = -q.shape[2] % size  # with beta = 0: no reflection

    def chunks(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 0, fill))
        return padded.reshape(*x.shape[:2], -1, size, x.shape[-1])

    chunked, keys, betas = chunks(w), chunks(k), chunks(beta[..., None])
    between = (chunked @ chunked.mT).triu(1) * betas.mT
    identity = torch.eye(size, dtype=wide, device=q.device).expand_as(between)
    # Solved for all right-hand sides: coefficient l of query i is beta_l times row l of the
    # inverse, over the reflections up to i.
    inverse = torch.linalg.solve_triangular(identity + between, identity, upper=True)
    solved = inverse.mT * betas.mT
    inner = solved @ (chunked @ keys.mT).tril(-1)
    seen = keys - inner.mT @ chunked
    products = torch.eye(q.shape[-1], dtype=wide, device=q.device) - chunked.mT @ solved @ chunked
    return Reflections(q, k, chunked, solved, seen, products, added)


class Directions(nn.Module):
    """w of each token, in one layer."""

    def __init__(self, config: PathConfig, sizes: Sizes) -> None:
        super().__init__()
        width, self.n_heads = sizes.d_model, sizes.n_heads
        self.down = nn.Linear(width, config.rank, bias=False)
        self.up = nn.Linear(config.rank, width, bias=False)
        self.convolution = nn.Conv1d(width, width, config.taps, groups=width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, K), of length 1."""
        back = self.convolution.kernel_size[0] - 1
        w = F.silu(self.convolution(F.pad(self.up(self.down(x)).mT, (back, 0)))).mT
        w = split_heads(w, self.n_heads)
        w = w.to(torch.promote_types(w.dtype, torch.float32))  # in 16 bits its length is not 1
        normed: Tensor = w * (w.square().sum(-1, keepdim=True) + EPS).rsqrt()
        return normed


@SCHEMES.add("path", PathConfig)
class Path(Position):
    """Accumulated Householder reflections."""

    form = Form.ON_LOGITS
    title = "PaTH"
    family = "on the logits"
    idea = "queries reflected, on the way to a key, by each token between them"
    source = "Yang et al. 2025"
    claim = "PaTH-FoX extrapolates best of rotary, FoX and PaTH (trained at 4k, read to 64k)"

    def __init__(self, config: PathConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.directions = nn.ModuleList(Directions(config, sizes) for _ in range(sizes.n_layers))
        self.strengths = projections(sizes, sizes.n_heads)
        if config.forget:
            self.gates = projections(sizes, sizes.n_heads)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' models; convolutions as torch draws them."""
        if "convolution" not in name:
            draw_projection(name, parameter, generator)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The function of this layer's reflections."""
        strengths = self.strengths[layer](x)
        wide = torch.promote_types(strengths.dtype, torch.float32)
        beta = 2 * strengths.to(wide).sigmoid().mT
        added = None
        if self.config.forget:
            added = F.logsigmoid(self.gates[layer](x).double()).cumsum(1).mT
        w = self.directions[layer](x)
        with torch.autocast(q.device.type, enabled=False):  # in 16 bits products go astray
            return q, k, Bias(on_logits=reflections(q, k, w, beta, added))


SCHEMES.name("path_fox", "PaTH-FoX", PathConfig(forget=True))
