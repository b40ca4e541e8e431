"""A run's model."""

from alibi_lm.config import Config
from alibi_lm.data.tokens import TokenizedCorpus
from alibi_lm.model.decoder import Decoder


def build_model(config: Config, data: TokenizedCorpus) -> Decoder:
    """The model of a run, with its initial weights."""
    return Decoder(
        config.model,
        config.position,
        data.vocab_size,
        config.seed,
        config.backend,
        config.checkpointing,
    )
