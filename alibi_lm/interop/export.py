"""A trained run as a folder of Hugging Face, which AutoModelForCausalLM and AutoTokenizer load.

Rotary models and those without positions become GPT-NeoX, sinusoidal ones XGLM: the same numbers
in another order. All others stay our decoder, which modeling.py makes a class of transformers.
Whatever was written is loaded again and compared before the folder gets its name.
"""

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.config import Config
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.machine.hub import transformers_quietly
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import PositionConfig
from alibi_lm.positions.rope_parameters import FREQUENCIES, rope_parameters
from alibi_lm.positions.spec import shortest
from alibi_lm.runs.folder import Run
from alibi_lm.runs.train import build_model
from alibi_lm.settings import changed_settings, setting

TOLERANCE = 1e-4  # nats, of any token
COMPARED = 64  # tokens that are read by both
ROTARY = (*FREQUENCIES, "part")  # settings of rotary that GPT-NeoX has, too
# Of a layer, what is called otherwise and is the same: ours, theirs.
NEOX_NAMES = {
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.out": "attention.dense",
    "ffn.0": "mlp.dense_h_to_4h",
    "ffn.2": "mlp.dense_4h_to_h",
}
XGLM_NAMES = {
    "attention_norm": "self_attn_layer_norm",
    "attention.out": "self_attn.out_proj",
    "ffn_norm": "final_layer_norm",
    "ffn.0": "fc1",
    "ffn.2": "fc2",
}


@dataclass
class ExportConfig:
    """A trained run, and the folder that it is written to."""

    run: str = setting("", "folder of the trained run")
    output: str | None = setting(None, "folder to write; null: `huggingface` in the run's")
    cache: str | None = setting(None, "folder for token files; null: that of the run")

    def problems(self) -> list[str]:
        """There must be a run."""
        if not self.run:
            return ["run: not given; name the folder of a trained run, run=FOLDER"]
        return []


@dataclass(frozen=True)
class Exported:
    """A folder that was written, and how far its losses are from ours."""

    path: Path
    class_name: str
    is_native: bool  # whether transformers has the class itself
    difference: float  # the largest of a token, nats


def export(run: Run, output: Path) -> Exported:
    """Write the folder; a UserError if it is there already, or what it gives is not the same."""
    if output.exists():
        raise UserError(f"output: {output} exists; name another folder, or remove it")
    config = run.training
    with transformers_quietly():
        native = _native(run, config)
        model = native if native is not None else _own(run, config)
        partial = output.with_name(f".{output.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
        partial.mkdir(parents=True)
        try:
            model.save_pretrained(partial)
            if native is None:
                _write_stub(partial)
            _write_tokenizer(run, config, partial)
            difference = _compare(run, partial)
            if difference > TOLERANCE:
                raise UserError(
                    f"{run.path}: what {type(model).__name__} computes of its weights differs by "
                    f"{difference:.2g} nats; nothing was written"
                )
            partial.replace(output)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Exported(output, type(model).__name__, native is not None, difference)


def is_native(position: PositionConfig, model: ModelConfig) -> str | None:
    """The class of transformers that computes the same; None if there is none."""
    changed = changed_settings(position)
    if model.cutoffs or not model.final_norm:
        return None
    if position.kind == "none" and not changed:
        return "GPTNeoXForCausalLM"
    if position.kind == "sinusoidal" and not changed and model.d_model % 2 == 0:
        return "XGLMForCausalLM"
    if position.kind == "rotary":
        plain = type(position)(**{k: v for k, v in changed.items() if k in ROTARY})
        try:
            rope_parameters(position, model.sizes(2))
        except SettingsError:
            return None
        return "GPTNeoXForCausalLM" if plain == position else None
    return None


def _native(run: Run, config: Config) -> Any:
    """The model as a class of transformers; None if it has none that computes the same."""
    from transformers import GPTNeoXForCausalLM, XGLMForCausalLM

    name = is_native(config.position, config.model)
    if name is None:
        return None
    weights = run.read_weights()
    made: Any
    if name == "XGLMForCausalLM":
        made, tensors = XGLMForCausalLM(_xglm(run, config)), xglm_weights(weights, config.model)
    else:
        made, tensors = GPTNeoXForCausalLM(_neox(run, config)), neox_weights(weights, config)
    missing, surplus = made.load_state_dict(tensors, strict=False)
    assert not surplus and set(missing) <= {"lm_head.weight", "embed_out.weight"}, missing
    made.tie_weights()
    return made.eval()


def _common(run: Run, config: Config) -> dict[str, Any]:
    end = run.data.end
    return {
        "vocab_size": run.data.vocab_size,
        "max_position_embeddings": config.train_length,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": None,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _neox(run: Run, config: Config) -> Any:
    from transformers import GPTNeoXConfig

    model = config.model
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.0}
    max_length = config.train_length
    if config.position.kind == "rotary":
        parameters, max_length = rope_parameters(config.position, config.sizes)
    return GPTNeoXConfig(
        **_common(run, config) | {"max_position_embeddings": max_length},
        hidden_size=model.d_model,
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        intermediate_size=model.d_ff,
        hidden_act="relu",
        hidden_dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        layer_norm_eps=1e-5,
        use_parallel_residual=False,
        attention_bias=True,
        rope_parameters=parameters,
    )


def _xglm(run: Run, config: Config) -> Any:
    from transformers import XGLMConfig

    model = config.model
    return XGLMConfig(
        **_common(run, config),
        d_model=model.d_model,
        num_layers=model.n_layers,
        attention_heads=model.n_heads,
        ffn_dim=model.d_ff,
        activation_function="relu",
        dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        activation_dropout=model.activation_dropout,
        layerdrop=0.0,
        scale_embedding=True,
    )


def neox_weights(weights: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Our tensors under GPT-NeoX's names.

    Its head has the embedding's own matrix, and it does not scale embeddings, so that what scales
    ours at the bottom is undone by the last norm.
    """
    model = config.model
    scale, head_dim = math.sqrt(model.d_model), model.d_model // model.n_heads
    width = 0
    if config.position.kind == "rotary":
        width = int(head_dim * config.position.part)  # type: ignore[attr-defined]
    # Ours rotates neighbours, GPT-NeoX coordinates that are half of the rotated width apart.
    order = [*range(0, width, 2), *range(1, width, 2), *range(width, head_dim)]
    theirs = {
        "gpt_neox.embed_in.weight": weights["embedding.weight"] * scale,
        "gpt_neox.final_layer_norm.weight": weights["norm.weight"] / scale,
        "gpt_neox.final_layer_norm.bias": weights["norm.bias"] / scale,
    }
    for layer in range(model.n_layers):
        there = f"gpt_neox.layers.{layer}"
        theirs |= _renamed(weights, layer, there, NEOX_NAMES)
        for kind in ("weight", "bias"):
            stacked = weights[f"blocks.{layer}.attention.qkv.{kind}"]
            q, k, v = stacked.reshape(3, model.n_heads, head_dim, *stacked.shape[1:])
            rows = torch.stack([q[:, order], k[:, order], v], dim=1)  # (H, 3, K, ...)
            theirs[f"{there}.attention.query_key_value.{kind}"] = rows.flatten(0, 2)
    return theirs


def xglm_weights(weights: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Our tensors under XGLM's names."""
    theirs = {
        "model.embed_tokens.weight": weights["embedding.weight"],
        "model.layer_norm.weight": weights["norm.weight"],
        "model.layer_norm.bias": weights["norm.bias"],
    }
    for layer in range(model.n_layers):
        there = f"model.layers.{layer}"
        theirs |= _renamed(weights, layer, there, XGLM_NAMES)
        for kind in ("weight", "bias"):
            parts = weights[f"blocks.{layer}.attention.qkv.{kind}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                theirs[f"{there}.self_attn.{name}_proj.{kind}"] = part
    return theirs


def _renamed(
    weights: dict[str, Tensor], layer: int, there: str, names: dict[str, str]
) -> dict[str, Tensor]:
    """The tensors of a layer that another class has as they are, under its names."""
    return {
        f"{there}.{theirs}.{kind}": weights[f"blocks.{layer}.{ours}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }


def _own(run: Run, config: Config) -> Any:
    """The decoder as our class of transformers."""
    from alibi_lm.interop.modeling import AlibiLmConfig, AlibiLmForCausalLM

    position = shortest({"kind": config.position.kind} | changed_settings(config.position))
    made = AlibiLmForCausalLM(
        AlibiLmConfig(
            sizes=asdict(config.model),
            position=position,
            train_length=config.train_length,
            **_common(run, config) | {"tie_word_embeddings": False},
        )
    )
    trained = _trained(run)
    made.decoder.load_state_dict(dict(trained.named_parameters()) | dict(trained.named_buffers()))
    made.eval()  # type: ignore[no-untyped-call]
    return made


def _trained(run: Run) -> Decoder:
    model = build_model(run, seed=None, backend="auto").eval()
    run.load_weights(model)
    return model


def _write_stub(folder: Path) -> None:
    """The lines by which `trust_remote_code` finds the class, and their place in config.json."""
    from alibi_lm.interop.modeling import STUB, STUB_NAME

    (folder / f"{STUB_NAME}.py").write_text(STUB)
    file = folder / "config.json"
    values = json.loads(file.read_text())
    classes = {"AutoConfig": "AlibiLmConfig", "AutoModelForCausalLM": "AlibiLmForCausalLM"}
    values["auto_map"] = {auto: f"{STUB_NAME}.{name}" for auto, name in classes.items()}
    file.write_text(json.dumps(values, indent=2) + "\n")


def _write_tokenizer(run: Run, config: Config, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    file = run.data.tokenizer_file
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    end = tokenizer.id_to_token(run.data.end)
    unknown = getattr(tokenizer.model, "unk_token", None)
    PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        bos_token=end,
        eos_token=end,
        **({"unk_token": unknown} if unknown else {}),
        model_max_length=config.train_length,
    ).save_pretrained(folder)


@torch.inference_mode()
def _compare(run: Run, folder: Path) -> float:
    """The largest difference of a token's loss between the folder's model and the run's."""
    from transformers import AutoModelForCausalLM

    split = next(iter(run.data.splits.values()))
    ours = _trained(run)
    length = min(COMPARED, split.tokens, ours.longest or COMPARED)
    tokens = torch.from_numpy(split.stream[: length + 1].astype(np.int64))[None]
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
    logits = theirs(tokens[:, :-1], use_cache=False).logits.float()
    losses = F.cross_entropy(logits[0], tokens[0, 1:], reduction="none")
    return float((losses - ours(tokens[:, :-1], tokens[:, 1:])[0]).abs().max())
