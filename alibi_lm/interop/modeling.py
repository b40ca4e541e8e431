"""The decoder as a class of transformers, for schemes that it has no class of its own for.

Importing this file registers it: `AutoModelForCausalLM.from_pretrained` then loads the folders that
export.py writes. Where it is not imported, `trust_remote_code=True` does so, through the few lines
that the folder holds (STUB).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import PreTrainedModel

from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions.spec import read_spec

MODEL_TYPE = "alibi_lm"
STUB_NAME = "modeling_alibi_lm"
STUB = '''"""Loads the model by the package alibi_lm, which must be installed."""

from alibi_lm.interop.modeling import AlibiLmConfig, AlibiLmForCausalLM

__all__ = ["AlibiLmConfig", "AlibiLmForCausalLM"]
'''


class AlibiLmConfig(PretrainedConfig):
    """What decides the decoder: its sizes, the scheme as a spec, and the training length."""

    model_type = MODEL_TYPE

    def __init__(
        self,
        sizes: dict[str, Any] | None = None,
        position: Any = "none",
        train_length: int = 64,
        vocab_size: int = 257,
        **others: Any,
    ) -> None:
        self.sizes = sizes or {}
        self.position = position
        self.train_length = train_length
        self.vocab_size = vocab_size
        model = ModelConfig(**self.sizes)
        self.hidden_size = model.d_model
        self.num_hidden_layers = model.n_layers
        self.num_attention_heads = model.n_heads
        super().__init__(**others)


class AlibiLmForCausalLM(PreTrainedModel, GenerationMixin):
    """The decoder; its logits are log-probabilities. It keeps no cache: all is read each time."""

    config_class = AlibiLmConfig
    base_model_prefix = "decoder"
    main_input_name = "input_ids"

    def __init__(self, config: AlibiLmConfig) -> None:
        super().__init__(config)
        # transformers builds models without numbers and fills in those of its file. What schemes
        # compute when they are built is therefore computed here, and kept in that file, too.
        with torch.device("cpu"):
            self.decoder = Decoder(
                ModelConfig(**config.sizes),
                read_spec(config.position, "position"),
                config.vocab_size,
                config.train_length,
                seed=None,
            )
            self.decoder.position.read_vocabulary(lambda: [""] * config.vocab_size)
        for module in self.decoder.modules():
            module._non_persistent_buffers_set.clear()
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: Any) -> None:
        """All numbers are in the file."""

    def get_input_embeddings(self) -> Any:
        """Input and output share what embeds tokens."""
        return self.decoder.embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> CausalLMOutput:
        """Log-probabilities of the next token. (B, T) -> (B, T, V), or of the last ones to keep.

        attention_mask: may leave out tokens at the end only, which no other token sees (none where
        a scheme looks at the length of the text). labels: the loss is that of predicting each from
        those before it; -100 is not scored.
        """
        if attention_mask is not None:
            mask = attention_mask.long()
            if bool((mask.diff(dim=-1) > 0).any()):
                raise ValueError("pad on the right: positions are counted from the first token")
            if not self.decoder.prefix_consistent and not bool(mask.all()):
                raise ValueError("no padding: positions depend on the length of the text")
        hidden = self.decoder.hidden(input_ids)
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.decoder.embedding.log_probabilities(hidden)
        loss = None
        if labels is not None:
            loss = F.nll_loss(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, **others: Any
    ) -> dict[str, Any]:
        """The whole text, each time."""
        return {"input_ids": input_ids, "attention_mask": others.get("attention_mask")}


AutoConfig.register(MODEL_TYPE, AlibiLmConfig, exist_ok=True)
AutoModelForCausalLM.register(AlibiLmConfig, AlibiLmForCausalLM, exist_ok=True)
