"""Dual Chunk Attention: positions within chunks, between neighbours, and between far chunks.

An et al. (ICML 2024, arXiv 2402.17463), after HKUNLP/ChunkLlama: with a `size` s of 3/4 of the
training length and a `local` window l of 1/8, chunks have c = s - l tokens. Key j stands at j mod
c; query i at i mod c for keys of its chunk, at min(i mod c + c, s) for those of the chunk before,
and at min(2 c - 1, s) for all others. The code's own factor on logits of longer texts is left out,
as the paper's numbers are without.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Sizes
from alibi_lm.positions.rerotated import Rerotated
from alibi_lm.positions.rotary import RotaryConfig
from alibi_lm.settings import setting


@dataclass
class DualChunkConfig(RotaryConfig):
    """Settings of dual chunks; those of the rotary model besides."""

    size: int | None = setting(None, "positions in use; null: 3/4 of train_length", at_least=2)
    local: int | None = setting(None, "exact across chunks; null: 1/8 of it", at_least=1)

    def chunk(self, train_length: int) -> tuple[int, int]:
        """The positions in use, and the tokens of a chunk."""
        size = self.size or 3 * train_length // 4
        return size, size - (self.local or train_length // 8)

    def problems(self, sizes: Sizes) -> list[str]:
        """A chunk must have tokens."""
        problems = super().problems(sizes)
        size, chunk = self.chunk(sizes.train_length)
        if chunk < 1:
            problems.append(
                f"position.size, position.local: {size} and {size - chunk} leave chunks of no "
                "tokens; size must be above local"
            )
        return problems


@SCHEMES.add("dual_chunk", DualChunkConfig)
class DualChunk(Rerotated):
    """Dual chunk attention."""

    config: DualChunkConfig
    title = "Dual Chunk"
    idea = "a rotary model read in chunks, with other positions for keys of other chunks"
    source = "An et al. 2024"
    claim = "Llama 3, trained at 8k: perplexity 8.71 at 8k, 8.62 at 32k, 10.66 at 160k"

    def places(self, length: int) -> list[tuple[Any, Any]]:
        """Three rotations of queries, one of keys."""
        size, chunk = self.config.chunk(self.train_length)
        inside = torch.arange(length) % chunk
        far = float(min(2 * chunk - 1, size))
        return [(inside, inside), ((inside + chunk).clamp(max=size), inside), (far, inside)]

    def which(self, i: Tensor, j: Tensor) -> Tensor:
        """How many chunks the key is behind: none, one, more."""
        _, chunk = self.config.chunk(self.train_length)
        return (i // chunk - j // chunk).clamp(0, 2)
