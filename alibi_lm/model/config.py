"""The decoder's sizes and dropouts."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from alibi_lm.positions.base import Sizes
from alibi_lm.settings import setting

INITS = ("xavier", "fairseq")


@dataclass
class ModelConfig:
    """The decoder's sizes; the defaults are those of model=tiny, for minutes on two cores."""

    n_layers: int = setting(2, "Transformer blocks", at_least=1)
    n_heads: int = setting(4, "attention heads", at_least=1)
    d_model: int = setting(192, "width of the residual stream", at_least=1)
    d_ff: int = setting(768, "width of the feed-forward layers", at_least=1)
    dropout: float = setting(
        0.0, "dropout on embeddings and on the output of each layer", at_least=0, below=1
    )
    attention_dropout: float = setting(0.0, "dropout on attention weights", at_least=0, below=1)
    activation_dropout: float = setting(0.0, "dropout after the ReLU", at_least=0, below=1)
    final_norm: bool = setting(True, "normalise before the softmax (the paper's model does not)")
    init: str = setting("xavier", "initial weights; fairseq: as the paper's", choices=INITS)
    cutoffs: list[int] = setting(
        [], "adaptive softmax: first word of each band but the first; [] for one matrix", at_least=1
    )
    cutoff_factor: int = setting(4, "each band's vectors are narrower by this factor", at_least=1)
    softmax_dropout: float = setting(
        0.0, "adaptive softmax: dropout before it and within its tails", at_least=0, below=1
    )

    def sizes(self, train_length: int) -> Sizes:
        """What a positional scheme knows of the model."""
        return Sizes(self.n_layers, self.n_heads, self.d_model, train_length)

    def problems(self) -> list[str]:
        """Heads must divide the width; bands must follow each other and have vectors."""
        problems = []
        if self.n_heads >= 1 and self.d_model % self.n_heads:
            problems.append(
                f"model.n_heads: given {self.n_heads}, but it must divide "
                f"model.d_model = {self.d_model}"
            )
        if self.cutoffs != sorted(set(self.cutoffs)):
            problems.append(f"model.cutoffs: given {self.cutoffs}, but they must increase")
        if self.cutoff_factor >= 1 and self.cutoff_factor ** len(self.cutoffs) > self.d_model:
            problems.append(
                f"model.cutoff_factor: given {self.cutoff_factor}, but the vectors of the last of "
                f"{len(self.cutoffs) + 1} bands would be narrower than 1 "
                f"(model.d_model = {self.d_model})"
            )
        if self.softmax_dropout and not self.cutoffs:
            problems.append(
                f"model.softmax_dropout: given {self.softmax_dropout}, but only the adaptive "
                "softmax has it; set model.cutoffs"
            )
        return problems


ConfigStore.instance().store(group="model", name="tiny", node=ModelConfig)
