"""The authors' checkpoints: a fairseq .pt with its dict.txt, as a run folder.

Of a checkpoint's pickle nothing is created but tensors, containers of plain values and the
Namespace of its arguments; whatever else it asks for is named and refused. Everything that decides
what the model computes is read from its arguments and checked; every tensor must have its place.
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

from alibi_lm.config import Config, ConvertConfig, EvaluationConfig, ModelConfig, NagConfig
from alibi_lm.data.dictionary import count_words, read_dictionary
from alibi_lm.data.tokenizers import WordsConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.machine.files import write_atomically
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import PositionConfig
from alibi_lm.runs.build import build_model
from alibi_lm.runs.folder import DICTIONARY, OTHER_FOLDER, Run, check_identity, find_run, open_run
from alibi_lm.training.checkpoint import pack_weights

# What the model is if an argument is not in the checkpoint, and what it must be: ours is no other.
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
# What is read as a number where it is there, the first one of a list.
NUMBERS = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "relu_dropout",
    "adaptive_softmax_dropout",
    "max_tokens",
    "update_freq",
    "distributed_world_size",
    "warmup_updates",
    "warmup_init_lr",
    "lr",
    "min_lr",
    "clip_norm",
    "momentum",
    "seed",
)
PAPER = NagConfig(lr=1.0, min_lr=1e-4, warmup_steps=16_000, warmup_init_lr=1e-7, grad_clip=0.1)


def convert(wanted: ConvertConfig) -> Run:
    """Write the run folder of a checkpoint, for the text that is given; the run is trained.

    A UserError if anything in the checkpoint, the dictionary or the text does not fit; then there
    is no folder.
    """
    path, dictionary = Path(wanted.checkpoint), Path(wanted.dictionary)
    checkpoint = read_checkpoint(path)
    arguments = arguments_of(checkpoint, path)
    vocab_size = count_words(read_dictionary(dictionary))
    model = model_config(arguments, vocab_size, path)
    updates = _updates(checkpoint)
    tokenizer = WordsConfig(layout="fairseq", dictionary=str(dictionary))
    config = Config(
        position=wanted.position,
        model=model,
        data=wanted.data,
        tokenizer=tokenizer,
        optim=recipe(arguments, updates),
        evaluation=EvaluationConfig(lengths=[arguments["tokens_per_sample"]]),
        train_length=arguments["tokens_per_sample"],
        seed=int(arguments.get("seed", 1)),
        output=wanted.output,
        cache=wanted.cache,
        run=wanted.run,
    )
    if problems := config.problems():
        raise SettingsError(problems)
    ours = weights(checkpoint["model"], model, path)
    _check_shapes(ours, model, wanted.position, vocab_size, path)
    data = prepare(config.data, tokenizer, Path(config.cache))
    check_identity(config, data)
    decoder = build_model(config, data)
    decoder.load_state_dict(ours)
    source = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "updates": updates,
        "arguments": {key: value for key, value in arguments.items() if _is_plain(value)},
    }
    folder = find_run(config, data).path
    if (folder / "manifest.json").exists():
        there = Run(folder, config).manifest().get("converted_from", {})
        if there.get("sha256") != source["sha256"]:  # what it scored is not this one's
            raise UserError(f"run folder {folder} holds another model; {OTHER_FOLDER}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / DICTIONARY, dictionary.read_bytes())
    kept = replace(tokenizer, dictionary=str(folder / DICTIONARY))
    run = open_run(replace(config, tokenizer=kept), data)
    with run.lock():
        run.finish(
            pack_weights(decoder),
            n_parameters=decoder.n_parameters,
            train_tokens=config.optim.steps * config.optim.tokens_per_step,
            vocab_size=data.vocab_size,
            converted_from=source,
        )
    return run


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a fairseq trainer saved, without running what a pickle may ask for."""
    if not path.is_file():
        raise UserError(f"checkpoint: {path} is no file")
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
                f"checkpoint: {path} asks for {asked[1]}, and nothing but tensors, containers and "
                "an argparse.Namespace is created from such a file"
            ) from error
        raise UserError(
            f"checkpoint: {path} cannot be read as a checkpoint of torch ({type(error).__name__}); "
            "it may be truncated"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise UserError(f"checkpoint: {path} is no fairseq checkpoint: it has no 'model'")
    for key, value in checkpoint["model"].items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise UserError(f"checkpoint: {path}: {key} of its model is no tensor under a name")
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
    for key in NUMBERS:
        given = arguments.pop(key, None)
        value = given[0] if isinstance(given, list) and given else given
        if value is None or value == []:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"checkpoint: {path}: {key} is {given!r}, and not a number")
        arguments[key] = value
    return arguments


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
    needed = ("layers", "attention_heads", "embed_dim", "ffn_embed_dim")
    keys = [*(f"decoder_{name}" for name in needed), "tokens_per_sample"]
    problems += [
        f"{key} is {arguments.get(key)}, and not a number"
        for key in keys
        if not _is_size(arguments, key)
    ]
    if problems:
        raise UserError(f"checkpoint: {path} is of another architecture: {'; '.join(problems)}")
    width = arguments["decoder_embed_dim"]
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
        n_layers=arguments["decoder_layers"],
        n_heads=arguments["decoder_attention_heads"],
        d_model=width,
        d_ff=arguments["decoder_ffn_embed_dim"],
        dropout=arguments.get("dropout", 0.0),
        attention_dropout=arguments.get("attention_dropout", 0.0),
        activation_dropout=arguments.get("activation_dropout", 0.0)
        or arguments.get("relu_dropout", 0.0),
        final_norm=not arguments.get("no_decoder_final_norm", False),
        init="fairseq",
        cutoffs=cutoffs[:-1] if cutoffs[-1] == vocab_size else cutoffs,
        cutoff_factor=factor[0],
        softmax_dropout=arguments.get("adaptive_softmax_dropout", 0.0),
    )


def recipe(arguments: dict[str, Any], updates: int) -> NagConfig:
    """How it was trained, as far as it says; the paper's flags for the rest."""
    length = arguments["tokens_per_sample"]
    sequences = max(1, arguments.get("max_tokens", length) // length)
    accumulated = arguments.get("update_freq", 1)
    gpus = arguments.get("distributed_world_size", 1)
    warmup = min(int(arguments.get("warmup_updates", PAPER.warmup_steps)), updates)
    return replace(
        PAPER,
        steps=updates,
        tokens_per_step=max(1, int(sequences * accumulated * gpus)) * length,
        lr=arguments.get("lr", PAPER.lr),
        min_lr=max(0.0, arguments.get("min_lr", PAPER.min_lr)),
        warmup_steps=warmup,
        warmup_init_lr=max(0.0, arguments.get("warmup_init_lr", PAPER.warmup_init_lr or 0.0)),
        grad_clip=arguments.get("clip_norm", PAPER.grad_clip) or PAPER.grad_clip,
        momentum=arguments.get("momentum", PAPER.momentum),
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


def _check_shapes(
    ours: dict[str, Tensor],
    config: ModelConfig,
    position: PositionConfig,
    vocab_size: int,
    path: Path,
) -> None:
    """Refuse tensors that are not of the shapes that the model must have, before it is built."""
    words = sum(len(ours[f"embedding.bands.{i}"]) for i in range(len(config.cutoffs) + 1))
    if words != vocab_size:
        raise UserError(
            f"checkpoint: {path} does not fit: the dictionary has {vocab_size:,} words with its "
            f"specials, the model {words:,}"
        )
    with torch.device("meta"):  # shapes without numbers
        model = Decoder(config, position, vocab_size)
    problems = [f"it has no {name}" for name, _ in model.named_parameters() if name not in ours] + [
        f"{name} is {tuple(ours[name].shape)} and should be {tuple(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if name in ours and ours[name].shape != parameter.shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f" and {len(problems) - 3} more" * (len(problems) > 3))
        raise UserError(f"checkpoint: {path} does not fit: {shown}")


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


def _is_size(arguments: dict[str, Any], key: str) -> bool:
    value = arguments.get(key)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _named(keys: list[str]) -> str:
    shown = ", ".join(sorted(keys)[:3])
    return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
