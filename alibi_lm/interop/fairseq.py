"""The authors' checkpoints: a fairseq .pt with its dict.txt, as a run folder.

Only tensors, plain containers and the Namespace of its arguments are created from a checkpoint's
pickle; anything else that it asks for is named and refused. Everything that decides what the model
computes is read from its arguments and checked; every tensor must have its place.
"""

import argparse
import hashlib
import re
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alibi_lm.config import Config
from alibi_lm.data.dictionary import count_words, read_dictionary
from alibi_lm.data.sources.wikitext import WikitextConfig
from alibi_lm.data.tokenizers import WordsConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.interop.config import ConvertConfig
from alibi_lm.machine.files import write_atomically
from alibi_lm.model.config import ModelConfig
from alibi_lm.positions.alibi import AlibiConfig
from alibi_lm.runs.folder import DICTIONARY, Run, new_run
from alibi_lm.runs.train import build_model
from alibi_lm.training.checkpoint import pack_weights
from alibi_lm.training.optim import NagConfig

# Arguments that must have these values; those of FIXED are the default where they are missing.
REQUIRED = {
    "adaptive_input": True,
    "tie_adaptive_weights": True,
    "tie_adaptive_proj": True,
    "decoder_normalize_before": True,
}
FIXED = {
    "activation_fn": "relu",
    "no_scale_embedding": False,
    "layernorm_embedding": False,
    "decoder_learned_pos": False,
    "character_embeddings": False,
    "share_decoder_input_output_embed": False,
    "add_bos_token": False,
    "base_layers": 0,
    "quant_noise_pq": 0,
    "quant_noise_scalar": 0,
}
# Numbers that fairseq keeps beside the weights: versions and devices.
NO_WEIGHTS = re.compile(r"(.*\.)?(version|_float_tensor)")
PAPER = NagConfig(lr=1.0, min_lr=1e-4, warmup_steps=16_000, warmup_init_lr=1e-7, grad_clip=0.1)


def convert(wanted: ConvertConfig) -> Run:
    """Write the run folder of a checkpoint, for the text that is given; the run is trained.

    A UserError if anything in the checkpoint, the dictionary or the text does not fit; then there
    is no folder.
    """
    assert wanted.checkpoint is not None and wanted.dictionary is not None
    path, dictionary = Path(wanted.checkpoint), Path(wanted.dictionary)
    checkpoint = read_checkpoint(path)
    arguments = arguments_of(checkpoint, path)
    vocab_size = count_words(read_dictionary(dictionary))
    model, updates = model_config(arguments, vocab_size, path), _updates(checkpoint)
    tokenizer = WordsConfig(layout="fairseq", dictionary=str(dictionary))
    config = Config(
        position=wanted.position or AlibiConfig(),
        model=model,
        data=wanted.data or WikitextConfig(),
        tokenizer=tokenizer,
        optim=recipe(arguments, updates),
        evaluation=EvaluationConfig(lengths=[_size(arguments, "tokens_per_sample")]),
        train_length=_size(arguments, "tokens_per_sample"),
        seed=int(_number(arguments, "seed", 1)),
        output=wanted.output,
        cache=wanted.cache,
        run=wanted.run,
    )
    if problems := config.problems():
        raise SettingsError([f"checkpoint: {path}: {problem}" for problem in problems])
    ours = weights(checkpoint["model"], model, path)
    data = prepare(config.data, config.tokenizer, Path(config.cache))
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    run = new_run(config, data, source)
    words = sum(len(ours[f"embedding.bands.{i}"]) for i in range(len(model.cutoffs) + 1))
    if words != vocab_size:
        raise UserError(
            f"checkpoint: {path} does not fit: the dictionary has {vocab_size:,} words with its "
            f"specials, the model {words:,}"
        )
    decoder = build_model(run, seed=None, backend="auto")
    try:
        decoder.load_state_dict(ours)
    except RuntimeError as error:  # torch lists missing and misshapen tensors in lines
        reason = " ".join(str(error).split())
        raise UserError(f"checkpoint: {path} does not fit: {reason}") from error
    run.check()
    run.path.mkdir(parents=True, exist_ok=True)
    write_atomically(run.path / DICTIONARY, dictionary.read_bytes())
    kept = replace(tokenizer, dictionary=str(run.path / DICTIONARY))
    replace(run, config=replace(config, tokenizer=kept)).create()
    with run.lock():
        run.finish(
            pack_weights(decoder),
            n_parameters=decoder.n_parameters,
            train_tokens=config.optim.train_tokens,
            vocab_size=data.vocab_size,
            converted_from={
                "file": path.name,
                "sha256": source,
                "updates": updates,
                "arguments": {key: value for key, value in arguments.items() if _is_plain(value)},
            },
        )
    return run


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a fairseq trainer saved, without running what a pickle may ask for."""
    if not path.is_file():
        raise UserError(f"checkpoint: {path} is not a file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                if damaged := parts.testzip():  # torch reads on
                    raise UserError(
                        f"checkpoint: {path} is damaged: {damaged} has another checksum"
                    )
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of older pickles
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"checkpoint: {path} asks for {asked[1]}; only tensors, containers and an "
                "argparse.Namespace are created from such a file"
            ) from error
        raise UserError(
            f"checkpoint: {path} cannot be read as a checkpoint of torch ({type(error).__name__}); "
            "it may be truncated"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise UserError(f"checkpoint: {path} is not a fairseq checkpoint: it has no 'model'")
    for key, value in checkpoint["model"].items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise UserError(f"checkpoint: {path}: {key} of its model is not a named tensor")
    return checkpoint


def arguments_of(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Every argument by its name: of `args`, or of all groups of `cfg`, which followed it."""
    arguments: dict[str, Any] = {}
    args, cfg = checkpoint.get("args"), checkpoint.get("cfg")
    if isinstance(args, argparse.Namespace):
        arguments = vars(args)
    elif isinstance(cfg, dict):
        for group in sorted(cfg, key=lambda name: name == "model"):  # the model's own come last
            values = cfg[group]
            values = vars(values) if isinstance(values, argparse.Namespace) else values
            arguments |= values if isinstance(values, dict) else {}
    if not arguments:
        raise UserError(f"checkpoint: {path} says nothing of its model: no args, no cfg")
    # Some are lists with a value for each epoch: the first.
    return {
        key: value[0] if isinstance(value, list) and value else value
        for key, value in arguments.items()
        if value not in (None, [])
    }


def model_config(arguments: dict[str, Any], vocab_size: int, path: Path) -> ModelConfig:
    """The sizes of the checkpoint's model; a UserError if it is of another architecture."""
    problems = [
        f"{key} is {arguments.get(key)}, and only {value} can be converted"
        for key, value in REQUIRED.items()
        if arguments.get(key) != value
    ] + [
        f"{key} is {arguments[key]}, and only {value} can be converted"
        for key, value in FIXED.items()
        if arguments.get(key, value) != value
    ]
    if problems:
        raise UserError(f"checkpoint: {path} is of another architecture: {'; '.join(problems)}")
    width = _size(arguments, "decoder_embed_dim")
    for key in ("decoder_input_dim", "decoder_output_dim"):
        if arguments.get(key, width) != width:
            problems.append(
                f"{key} is {arguments[key]}, and only decoder_embed_dim = {width} can be"
            )
    cutoffs, factor = _numbers(arguments, "cutoff"), _numbers(arguments, "factor")
    if cutoffs is None or not cutoffs:
        problems.append("the cutoffs of adaptive input and softmax are not there or differ")
    if factor is None or len(factor) != 1:
        problems.append("the factors of adaptive input and softmax are not there or differ")
    if problems:
        raise UserError(f"checkpoint: {path} is of another architecture: {'; '.join(problems)}")
    assert cutoffs is not None and factor is not None
    return ModelConfig(
        n_layers=_size(arguments, "decoder_layers"),
        n_heads=_size(arguments, "decoder_attention_heads"),
        d_model=width,
        d_ff=_size(arguments, "decoder_ffn_embed_dim"),
        dropout=_number(arguments, "dropout", 0.0),
        attention_dropout=_number(arguments, "attention_dropout", 0.0),
        activation_dropout=_number(arguments, "activation_dropout", 0.0)
        or _number(arguments, "relu_dropout", 0.0),
        final_norm=not arguments.get("no_decoder_final_norm", False),
        init="fairseq",
        cutoffs=cutoffs[:-1] if cutoffs[-1] == vocab_size else cutoffs,
        cutoff_factor=factor[0],
        softmax_dropout=_number(arguments, "adaptive_softmax_dropout", 0.0),
    )


def recipe(arguments: dict[str, Any], updates: int) -> NagConfig:
    """How it was trained, as far as it says; the paper's flags for the rest."""

    def number(key: str, default: float) -> float:
        return _number(arguments, key, default)

    length = _size(arguments, "tokens_per_sample")
    sequences = max(1, int(number("max_tokens", length)) // length)
    sequences *= int(number("update_freq", 1) * number("distributed_world_size", 1))
    return replace(
        PAPER,
        steps=updates,
        tokens_per_step=max(1, sequences) * length,
        lr=number("lr", PAPER.lr),
        min_lr=max(0.0, number("min_lr", PAPER.min_lr)),
        warmup_steps=min(int(number("warmup_updates", PAPER.warmup_steps)), updates),
        warmup_init_lr=max(0.0, number("warmup_init_lr", PAPER.warmup_init_lr or 0.0)),
        grad_clip=number("clip_norm", PAPER.grad_clip) or PAPER.grad_clip,
        momentum=number("momentum", PAPER.momentum),
    )


def weights(theirs: dict[str, Tensor], config: ModelConfig, path: Path) -> dict[str, Tensor]:
    """Fairseq's tensors under our names, and what is tied once; a UserError if any has no place."""
    left = {key: value for key, value in theirs.items() if not NO_WEIGHTS.fullmatch(key)}
    missing: list[str] = []

    def take(key: str) -> Tensor:
        if key not in left:
            missing.append(key)
            return torch.empty(0)
        return left.pop(key).float()

    ours: dict[str, Tensor] = {}
    for layer in range(config.n_layers):
        there, here = f"decoder.layers.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            parts = [take(f"{there}.self_attn.{name}_proj.{kind}") for name in "qkv"]
            if len({part.shape for part in parts}) == 1:
                ours[f"{here}.attention.qkv.{kind}"] = torch.cat(parts)
            for mine, name in (
                ("attention.out", "self_attn.out_proj"),
                ("attention_norm", "self_attn_layer_norm"),
                ("ffn_norm", "final_layer_norm"),
                ("ffn.0", "fc1"),
                ("ffn.2", "fc2"),
            ):
                ours[f"{here}.{mine}.{kind}"] = take(f"{there}.{name}.{kind}")
    if config.final_norm:
        for kind in ("weight", "bias"):
            ours[f"norm.{kind}"] = take(f"decoder.layer_norm.{kind}")
    tied = {"decoder.adaptive_softmax.head.word_proj.weight": "embedding.bands.0"}
    for band in range(len(config.cutoffs) + 1):
        there = f"decoder.embed_tokens.embeddings.{band}"
        ours[f"embedding.bands.{band}"] = take(f"{there}.0.weight")
        ours[f"embedding.projections.{band}"] = take(f"{there}.1.weight")
        if band:
            tail = f"decoder.adaptive_softmax.tail.{band - 1}"
            tied[f"{tail}.0.weight"] = f"embedding.projections.{band}"
            tied[f"{tail}.2.weight"] = f"embedding.bands.{band}"
    ours["embedding.clusters"] = take("decoder.adaptive_softmax.head.class_proj.weight")
    twins = {there: take(there) for there in tied}
    if missing or left:
        found = [f"{_named(missing)} missing"] * bool(missing)
        found += [f"{_named(list(left))} surplus"] * bool(left)
        raise UserError(f"checkpoint: {path} does not fit its own arguments: {'; '.join(found)}")
    for there, here in tied.items():
        if not torch.equal(twins[there], ours[here]):
            raise UserError(
                f"checkpoint: {path}: {there} is not tied, and only tied can be converted"
            )
    return ours


def _number(arguments: dict[str, Any], key: str, default: float | None = None) -> float:
    """A number of the arguments; a UserError if it is something else, or missing and needed."""
    value = arguments.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"checkpoint: its argument {key} is {value!r}, which is not a number")
    return value


def _size(arguments: dict[str, Any], key: str) -> int:
    return int(_number(arguments, key))


def _updates(checkpoint: dict[str, Any]) -> int:
    """How many updates it was trained for; 1 if it does not say, the least that a run has."""
    history = checkpoint.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    updates = last.get("num_updates") if isinstance(last, dict) else None
    return updates if isinstance(updates, int) and updates > 0 else 1


def _numbers(arguments: dict[str, Any], what: str) -> list[int] | None:
    """The adaptive layers' cutoffs or factor as whole numbers; None unless both agree."""
    found: list[list[int]] = []
    for layer in ("input", "softmax"):
        value = arguments.get(f"adaptive_{layer}_{what}")
        try:
            parts: Any = value.split(",") if isinstance(value, str) else value
            found.append([int(part) for part in (parts if isinstance(parts, list) else [parts])])
        except (TypeError, ValueError):
            return None
    return found[0] if found[0] == found[1] else None


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _named(keys: list[str]) -> str:
    shown = ", ".join(sorted(keys)[:3])
    return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
