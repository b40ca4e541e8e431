"""Others' code against ours from shared weights: BLOOM and GPT-NeoX whole, T5's attention."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention import attend
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES, Sizes
from alibi_lm.positions.t5 import T5Bias, T5Config, t5_buckets

transformers = pytest.importorskip("transformers")
VOCAB, LENGTH = 50, 300
TOKENS = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def ours(position: str, sizes: ModelConfig) -> Decoder:
    model = Decoder(sizes, SCHEMES.settings[position](), VOCAB, LENGTH).eval()
    model.embedding_scale = 1.0  # theirs have none
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def share(model: Decoder, theirs: dict[str, nn.Module], order: Tensor | None = None) -> None:
    """Give their layers our weights. `order`: of the coordinates of a head's queries and keys."""
    heads, size = model.blocks[0].attention.n_heads, model.d_model
    mine: dict[str, Tensor] = dict(model.named_parameters())
    for name, module in theirs.items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" not in mine:
                continue
            value = mine[f"{name}.{kind}"].detach()
            if name.endswith("qkv"):  # theirs go head by head: q, k, v of the first, then the next
                q, k, v = value.view(3, heads, size // heads, -1)
                if order is not None:
                    q, k = q[:, order], k[:, order]
                value = torch.stack([q, k, v], dim=1).flatten(0, 2).view(value.shape)
            getattr(module, kind).data.copy_(value)


def assert_same_losses(model: Decoder, logits: Tensor) -> None:
    targets = TOKENS.roll(-1, 1)
    theirs = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(model(TOKENS, targets), theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("n_heads", [8, 12])
def test_alibi_is_blooms(n_heads: int) -> None:
    sizes = ModelConfig(n_layers=2, n_heads=n_heads, d_model=96, d_ff=4 * 96)
    model = ours("alibi", sizes)
    bloom: Any = transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=VOCAB, hidden_size=96, n_layer=2, n_head=n_heads)
    ).eval()
    bloom.transformer.word_embeddings_layernorm = nn.Identity()  # ours has none
    theirs = {"embedding": bloom.transformer.word_embeddings, "norm": bloom.transformer.ln_f}
    for i, layer in enumerate(bloom.transformer.h):
        layer.mlp.gelu_impl = nn.ReLU()
        theirs |= {
            f"blocks.{i}.attention_norm": layer.input_layernorm,
            f"blocks.{i}.attention.qkv": layer.self_attention.query_key_value,
            f"blocks.{i}.attention.out": layer.self_attention.dense,
            f"blocks.{i}.ffn_norm": layer.post_attention_layernorm,
            f"blocks.{i}.ffn.0": layer.mlp.dense_h_to_4h,
            f"blocks.{i}.ffn.2": layer.mlp.dense_4h_to_h,
        }
    share(model, theirs)
    assert_same_losses(model, bloom(TOKENS, use_cache=False).logits)


@torch.no_grad()
def test_rotary_is_gpt_neoxs() -> None:
    sizes = ModelConfig(n_layers=2, n_heads=4, d_model=64, d_ff=160)
    model = ours("rotary", sizes)
    neox: Any = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=160,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 1.0,
            },
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            hidden_act="relu",
            use_parallel_residual=False,
        )
    ).eval()
    theirs = {"embedding": neox.gpt_neox.embed_in, "norm": neox.gpt_neox.final_layer_norm}
    for i, layer in enumerate(neox.gpt_neox.layers):
        theirs |= {
            f"blocks.{i}.attention_norm": layer.input_layernorm,
            f"blocks.{i}.attention.qkv": layer.attention.query_key_value,
            f"blocks.{i}.attention.out": layer.attention.dense,
            f"blocks.{i}.ffn_norm": layer.post_attention_layernorm,
            f"blocks.{i}.ffn.0": layer.mlp.dense_h_to_4h,
            f"blocks.{i}.ffn.2": layer.mlp.dense_4h_to_h,
        }
    # It pairs coordinate i with i + K/2, ours (as the paper's source) 2i with 2i + 1.
    share(model, theirs, torch.cat([torch.arange(0, 16, 2), torch.arange(1, 16, 2)]))
    assert_same_losses(model, neox(TOKENS, use_cache=False).logits)


@torch.no_grad()
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (16, 50)])
def test_t5_bias_is_t5s(buckets: int, farthest: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    config = transformers.T5Config(
        d_model=48,
        d_kv=12,
        num_heads=4,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=farthest,
        is_decoder=True,
        dropout_rate=0.0,
    )
    theirs: Any = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()
    distances = torch.arange(3000)
    wanted = T5Attention._relative_position_bucket(-distances, False, buckets, farthest)
    assert torch.equal(t5_buckets(distances, buckets, farthest), wanted)

    scheme = T5Bias(T5Config(num_buckets=buckets, max_distance=farthest), Sizes(1, 4, 48, LENGTH))
    scheme.relative_attention_bias.weight.copy_(theirs.relative_attention_bias.weight)
    bias, future = scheme.begin(torch.arange(LENGTH)), torch.ones(LENGTH, LENGTH).triu(1).bool()
    matrix = theirs.compute_bias(LENGTH, LENGTH)[0].masked_fill(future, -math.inf)
    torch.testing.assert_close(bias.matrix(LENGTH), matrix.double())

    x = torch.randn(2, LENGTH, 48)
    mask = torch.zeros(LENGTH, LENGTH).masked_fill(future, torch.finfo(torch.float32).min)
    q, k, v = (
        layer(x).view(2, LENGTH, 4, 12).transpose(1, 2) for layer in (theirs.q, theirs.k, theirs.v)
    )
    # T5 does not divide by sqrt(head_dim).
    heads = attend(q * math.sqrt(12), k, v, bias).out.transpose(1, 2).flatten(-2)
    torch.testing.assert_close(
        theirs.o(heads), theirs(x, mask=mask[None, None])[0], rtol=1e-4, atol=1e-5
    )
