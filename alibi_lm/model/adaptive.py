"""Adaptive input and softmax for word vocabularies: wide vectors for frequent words, else narrow.

Words are numbered from the most frequent on and cut into bands. Band i has vectors of width
d_model / factor^i and a matrix that takes them to d_model (band 0, too). The output layer shares
both: its head scores the words of band 0 and, with a row of their own, the other bands; within a
band the words are scored by its vectors, against the hidden state taken back through its matrix.
So log p(word) = log p(band) + log p(word | band), exactly, and rare words cost little.

Grave et al. 2017; Baevski and Auli 2019, in the form of fairseq's AdaptiveInput and AdaptiveSoftmax
with tied weights and projections, which the ALiBi paper uses (section 2.1): the head has no
projection, dropout lies before everything and again between a tail's projection and its words, and
there are no biases.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.errors import UserError
from alibi_lm.model.softmax import losses_where_scored, matrix_losses


class AdaptiveSoftmax(nn.Module):
    """Bands of word vectors that embed words and score them."""

    def __init__(
        self, vocab_size: int, d_model: int, cutoffs: list[int], factor: int, dropout: float
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.edges = band_edges(cutoffs, vocab_size)
        sizes = [stop - start for start, stop in self.edges]
        widths = [d_model // factor**band for band in range(len(sizes))]
        self.bands = nn.ParameterList(
            torch.empty(size, width) for size, width in zip(sizes, widths, strict=True)
        )
        self.projections = nn.ParameterList(torch.empty(d_model, width) for width in widths)
        self.clusters = nn.Parameter(torch.empty(len(cutoffs), d_model))
        self.dropout = nn.Dropout(dropout)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fairseq's choice: vectors of variance 1/width, everything else Xavier's."""
        if name.startswith("bands."):
            parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, D), float32."""
        embedded = self.clusters.new_empty(*tokens.shape, self.d_model)
        for (start, stop), vectors, projection in self._parts():
            here = (tokens >= start) & (tokens < stop)
            found = F.linear(F.embedding(tokens[here] - start, vectors), projection)
            embedded[here] = found.to(embedded.dtype)
        return embedded

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Log p of every word, float32. (B, T, D) -> (B, T, V)."""
        first, *tails = self._parts()
        head = torch.cat([first[1], self.clusters])
        in_head = F.linear(hidden, head).float().log_softmax(-1)
        n_words = len(first[1])
        found, of_bands = [in_head[..., :n_words]], in_head[..., n_words:]
        for number, (_, vectors, projection) in enumerate(tails):
            narrow = F.linear(hidden, projection.T)
            within = F.linear(narrow, vectors).float().log_softmax(-1)
            found.append(of_bands[..., number, None] + within)
        return torch.cat(found, dim=-1)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """As TiedSoftmax.losses."""
        return losses_where_scored(hidden, targets, self._losses)

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(N, D), (N,) -> (N,)."""
        hidden = self.dropout(hidden)
        first, *tails = self._parts()
        (_, n_words), words, _ = first
        in_head, inside = targets.clone(), []
        for number, ((start, stop), vectors, projection) in enumerate(tails):
            here = (targets >= start) & (targets < stop)
            in_head[here] = n_words + number
            # Bands without a target are not left out: all parameters take part in each step, or
            # processes that share a batch would wait for a gradient that does not come.
            narrow = self.dropout(F.linear(hidden[here], projection.T))
            inside.append((here, matrix_losses(narrow, targets[here] - start, vectors)))
        losses = matrix_losses(hidden, in_head, torch.cat([words, self.clusters]))
        for here, within_band in inside:
            losses = losses.masked_scatter(here, losses[here] + within_band)
        return losses

    def _parts(self) -> list[tuple[tuple[int, int], Tensor, Tensor]]:
        """Of each band the first word and the one after its last, the vectors, the projection."""
        return list(zip(self.edges, self.bands, self.projections, strict=True))


def band_edges(cutoffs: list[int], vocab_size: int) -> list[tuple[int, int]]:
    """The first word of each band and the one after its last; a UserError if a band is empty."""
    if cutoffs[-1] >= vocab_size:
        raise UserError(
            f"model.cutoffs: given {cutoffs}, but the vocabulary has only {vocab_size:,} tokens, "
            "and the last band needs some of them"
        )
    return list(itertools.pairwise([0, *cutoffs, vocab_size]))
