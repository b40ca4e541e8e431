"""Other people's models at the sizes of ours, with random weights: what a user would pick instead.

x-transformers has every scheme; of `transformers` come its nearest models, GPT-NeoX with rotary
embeddings and BLOOM with ALiBi. Each attends as fast as it does without being compiled. What they
do otherwise is set as in our models (ReLU, no dropout), but for BLOOM's GELU.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.errors import UserError
from alibi_lm.model.config import ModelConfig

INSTALL = "pip install -r requirements-peers.txt"


class Peer(nn.Module):
    """A model that gives logits, as one that gives token losses; see evaluation.score.Subject."""

    longest = None
    prefix_consistent = True

    def __init__(
        self, model: nn.Module, logits_of: Callable[[nn.Module, Tensor], Tensor], backend: str
    ) -> None:
        super().__init__()
        self.backend = backend  # the library's own word for how it attends
        self.model = model
        self.logits_of = logits_of

    def forward(self, inputs: Tensor, targets: Tensor, window: int | None = None) -> Tensor:
        """Loss of predicting each target. (B, T), (B, T) -> (B, T)."""
        assert window is None
        logits = self.logits_of(self.model, inputs).float().flatten(0, -2)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)


@dataclass(frozen=True)
class Library:
    """How a library's model is built: sizes, scheme, vocabulary, longest length -> model."""

    package: str
    positions: tuple[str, ...]
    build: Callable[[ModelConfig, str, int, int], Peer]

    @property
    def version(self) -> str:
        """Of the installed package."""
        return importlib.metadata.version(self.package)


def check_peers(names: list[str], positions: list[str], model: ModelConfig) -> None:
    """Refuse libraries that are not installed, or cannot have these sizes or any of the schemes."""
    for name in names:
        if not set(PEERS[name].positions) & set(positions):
            raise UserError(
                f"peers: given {name}, which has none of {', '.join(positions)}; it has "
                f"{', '.join(PEERS[name].positions)}"
            )
        if importlib.util.find_spec(PEERS[name].package.replace("-", "_")) is None:
            raise UserError(f"peers: given {name}, which is not installed; {INSTALL}")
    if model.d_ff != 4 * model.d_model and names:
        raise UserError(
            f"peers: given {','.join(names)}, whose feed-forward layers are 4 x d_model wide; "
            f"model.d_ff is {model.d_ff} and model.d_model {model.d_model}"
        )
    dropouts = ("dropout", "attention_dropout", "activation_dropout")
    if names and (set_ones := [name for name in dropouts if getattr(model, name)]):
        raise UserError(
            f"peers: given {','.join(names)}, which have no dropout; set "
            f"{', '.join(f'model.{name}' for name in set_ones)} to 0"
        )
    if names and model.cutoffs:
        raise UserError(
            f"peers: given {','.join(names)}, which have a plain softmax; model.cutoffs is "
            f"{model.cutoffs}, set it to []"
        )


def _x_transformers(sizes: ModelConfig, position: str, vocab_size: int, length: int) -> Peer:
    import x_transformers

    flash = position != "t5"  # which it refuses for a T5 bias
    scheme = {
        "none": {},
        "sinusoidal": {},
        "rotary": {"rotary_pos_emb": True, "rotary_emb_dim": sizes.d_model // sizes.n_heads},
        "t5": {"rel_pos_bias": True, "rel_pos_num_buckets": 32, "rel_pos_max_distance": 128},
        "alibi": {"alibi_pos_bias": True, "alibi_num_heads": sizes.n_heads},
    }[position]
    layers = x_transformers.Decoder(
        dim=sizes.d_model,
        depth=sizes.n_layers,
        heads=sizes.n_heads,
        attn_dim_head=sizes.d_model // sizes.n_heads,
        attn_flash=flash,
        ff_custom_activation=nn.ReLU(),
        **scheme,
    )
    model = x_transformers.TransformerWrapper(
        num_tokens=vocab_size,
        max_seq_len=length,
        attn_layers=layers,
        tie_embedding=True,
        use_abs_pos_emb=position == "sinusoidal",
        scaled_sinu_pos_emb=position == "sinusoidal",
    )
    return Peer(model, lambda model, inputs: model(inputs), "flash" if flash else "plain")


def _transformers(sizes: ModelConfig, position: str, vocab_size: int, length: int) -> Peer:
    import transformers

    if position == "rotary":
        model: Any = transformers.GPTNeoXForCausalLM(
            transformers.GPTNeoXConfig(
                vocab_size=vocab_size,
                hidden_size=sizes.d_model,
                num_hidden_layers=sizes.n_layers,
                num_attention_heads=sizes.n_heads,
                intermediate_size=sizes.d_ff,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "partial_rotary_factor": 1.0,  # the whole head, as ours
                },
                max_position_embeddings=length,
                tie_word_embeddings=True,
                hidden_act="relu",
                use_parallel_residual=False,
            )
        )
    else:
        model = transformers.BloomForCausalLM(
            transformers.BloomConfig(
                vocab_size=vocab_size,
                hidden_size=sizes.d_model,
                n_layer=sizes.n_layers,
                n_head=sizes.n_heads,
            )
        )
    backend = str(model.config._attn_implementation)
    return Peer(model, lambda model, inputs: model(inputs, use_cache=False).logits, backend)


PEERS = {
    "x-transformers": Library(
        "x-transformers", ("none", "sinusoidal", "rotary", "t5", "alibi"), _x_transformers
    ),
    "transformers": Library("transformers", ("rotary", "alibi"), _transformers),
}
