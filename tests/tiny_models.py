"""Small models of transformers with random weights, as folders."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

VOCAB = 300
LONGEST = 48  # tokens that they say they were trained at
BEYOND = 150  # tokens that they are given, too
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LONGEST,
    "head_dim": 8,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LAYERS = ["sliding_attention", "full_attention"]
GPT2 = {"vocab_size": VOCAB, "n_positions": LONGEST, "n_embd": 32, "n_layer": 2, "n_head": 4}
PLAIN = {
    key: value for key, value in SIZES.items() if key not in ("head_dim", "num_key_value_heads")
}
# By its configuration's class: the settings, and the scheme that it has.
ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "LlamaConfig": (SIZES, "rotary"),
    "MistralConfig": (SIZES | {"sliding_window": 24}, "rotary"),
    "Qwen2Config": (SIZES, "rotary"),
    "Qwen3Config": (SIZES, "rotary"),
    "Gemma2Config": (SIZES | {"sliding_window": 24, "query_pre_attn_scalar": 8}, "rotary"),
    "Gemma3TextConfig": (
        SIZES | {"sliding_window": 24, "query_pre_attn_scalar": 8, "layer_types": LAYERS},
        "rotary",
    ),
    "Phi3Config": (SIZES, "rotary"),
    "CohereConfig": (SIZES, "rotary"),
    "GraniteConfig": (SIZES | {"logits_scaling": 3.0}, "rotary"),
    "SmolLM3Config": (SIZES, "rotary"),
    "GPTNeoXConfig": (PLAIN | {"num_attention_heads": 2}, "rotary"),
    "GPTJConfig": (GPT2 | {"rotary_dim": 4}, "rotary"),
    "GPT2Config": (GPT2, "learned"),
    "OPTConfig": (
        {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": LONGEST,
            "word_embed_proj_dim": 32,
        },
        "learned",
    ),
    "BloomConfig": ({"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "alibi"),
    "MptConfig": (
        {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": LONGEST},
        "alibi",
    ),
    "FalconConfig": (
        {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": LONGEST,
        },
        "rotary",
    ),
    "XGLMConfig": (
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": LONGEST,
        },
        "sinusoidal",
    ),
    "MambaConfig": ({"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2}, "none"),
}


# Others that differ in something, for tests of that.
OTHERS: dict[str, dict[str, Any]] = {
    "Gemma4TextConfig": SIZES
    | {
        "num_hidden_layers": 6,
        "sliding_window": 24,
        "global_head_dim": 16,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
    },
    "Llama4TextConfig": SIZES
    | {
        "attention_chunk_size": 24,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
    },
    "Gemma3Config": {
        "text_config": SIZES
        | {"sliding_window": 24, "query_pre_attn_scalar": 8, "layer_types": LAYERS},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    },
}


def save_tokenizer(folder: Path, adds_bos: bool = False) -> None:
    """One token for each byte, `<|endoftext|>` and `<s>`."""
    import transformers
    from tokenizers.processors import TemplateProcessing

    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 2)}
    vocab |= {"<|endoftext|>": 0, "<s>": 1}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<s>"])
    if adds_bos:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)


def save_model(folder: Path, name: str, adds_bos: bool = False, **settings: Any) -> Path:
    """A model of that configuration's class, whose weights are large enough to matter."""
    import transformers

    usual = ARCHITECTURES[name][0] if name in ARCHITECTURES else OTHERS[name]
    config = getattr(transformers, name)(**usual | settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    save_tokenizer(folder, adds_bos)
    return folder


def tokens_of(length: int) -> Tensor:
    """(2, length + 1)."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, VOCAB, (2, length + 1), generator=generator)


def losses_of(model: Any, tokens: Tensor) -> Tensor:
    """By the logits of a model of transformers."""
    logits = model(tokens[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def as_loaded(folder: Path, **settings: Any) -> Any:
    """What a user of transformers would call."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, **settings).eval()
