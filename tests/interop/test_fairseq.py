"""A checkpoint of the authors' code, and others of its form, against what that code computes.

fairseq_alibi_8heads holds random weights of toy sizes in the form of the authors' released
checkpoints, and the log-probabilities that their code (commit 4b92f28) computes with them.
"""

import argparse
import collections
import itertools
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from alibi_lm.config import from_dict, to_dict
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import UserError
from alibi_lm.interop.config import ConvertConfig
from alibi_lm.interop.fairseq import convert, read_checkpoint
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES
from alibi_lm.runs.folder import Run, load_run

TOY = Path(__file__).parent / "fairseq_alibi_8heads"
TOLERANCE = 1e-4


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rng = random.Random(0)
    lines = [" ".join(f"w{rng.randrange(296)}" for _ in range(9)) for _ in range(60)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def converted(tmp_path: Path, text: Path) -> Callable[..., Run]:
    def call(
        checkpoint: Path,
        dictionary: Path = TOY / "dict.txt",
        position: str = "alibi",
        name: str | None = None,
    ) -> Run:
        return convert(
            ConvertConfig(
                checkpoint=str(checkpoint),
                dictionary=str(dictionary),
                position=SCHEMES.settings[position](),
                data=TextConfig(train=[str(text)], held_out=0.2),
                output=str(tmp_path / "out"),
                cache=str(tmp_path / "cache"),
                run=name,
            )
        )

    return call


def loaded(run: Run) -> Decoder:
    facts = run.manifest()
    model = Decoder(
        run.config.model, run.config.position, facts["vocab_size"], run.config.train_length
    )
    run.load_weights(model)
    return model.eval()


@torch.inference_mode()
def log_probabilities(model: Decoder, tokens: Tensor, vocab_size: int) -> Tensor:
    """Of every next word at every position, asked for one word at a time. (B, T) -> (B, T, V)."""
    words = [model(tokens, torch.full_like(tokens, word)) for word in range(vocab_size)]
    return -torch.stack(words, dim=-1)


@pytest.mark.parametrize("name", ["expected", "expected_longer"])
def test_agrees_with_the_authors_code(converted: Callable[..., Run], name: str) -> None:
    model = loaded(converted(TOY / "checkpoint_best.pt"))
    expected = load_file(TOY / f"{name}.safetensors")
    ours = log_probabilities(model, expected["tokens"], 300)
    assert expected["tokens"].shape[1] == {"expected": 24, "expected_longer": 60}[name]
    assert (ours - expected["log_probs"]).abs().max() < TOLERANCE


def slopes_of(n_heads: int) -> list[float]:
    """As the authors' README words it for any number of heads."""
    if math.log2(n_heads).is_integer():
        return [2 ** (-8 * (i + 1) / n_heads) for i in range(n_heads)]
    lower = 2 ** int(math.log2(n_heads))
    return slopes_of(lower) + slopes_of(2 * lower)[::2][: n_heads - lower]


def by_the_definition(model: dict[str, Tensor], args: argparse.Namespace, tokens: Tensor) -> Tensor:
    """What fairseq's layers compute with these tensors, in float64, word by word. (B, T, V)."""
    w = {key.removeprefix("decoder."): value.double() for key, value in model.items()}
    edges = [0, *map(int, args.adaptive_softmax_cutoff.split(",")), None]
    x = torch.zeros(*tokens.shape, args.decoder_embed_dim, dtype=torch.float64)
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        here = (tokens >= start) & (tokens < (stop or 10**9))
        vectors = w[f"embed_tokens.embeddings.{i}.0.weight"]
        x[here] = vectors[tokens[here] - start] @ w[f"embed_tokens.embeddings.{i}.1.weight"].T
    x = x * math.sqrt(args.decoder_embed_dim)
    batch, length, width = x.shape
    heads = args.decoder_attention_heads
    # As the authors add it: grows with the key, the same in every row.
    bias = torch.tensor(slopes_of(heads)).double()[:, None, None] * torch.arange(length)
    bias = bias + torch.full((length, length), -math.inf).triu(1)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"])

    for layer in range(args.decoder_layers):
        at = f"layers.{layer}"
        normed = norm(f"{at}.self_attn_layer_norm", x)
        q, k, v = (
            linear(f"{at}.self_attn.{n}_proj", normed)
            .view(batch, length, heads, -1)
            .transpose(1, 2)
            for n in "qkv"
        )
        weights = (q @ k.mT * (width // heads) ** -0.5 + bias).softmax(-1)
        x = x + linear(f"{at}.self_attn.out_proj", (weights @ v).transpose(1, 2).flatten(-2))
        inner = linear(f"{at}.fc1", norm(f"{at}.final_layer_norm", x)).relu()
        x = x + linear(f"{at}.fc2", inner)
    if not args.no_decoder_final_norm:
        x = norm("layer_norm", x)
    head = torch.cat(
        [
            w["adaptive_softmax.head.word_proj.weight"],
            w["adaptive_softmax.head.class_proj.weight"],
        ]
    )
    in_head = (x @ head.T).log_softmax(-1)
    parts = [in_head[..., : edges[1]]]
    for i in range(len(edges) - 2):
        tail = x @ w[f"adaptive_softmax.tail.{i}.0.weight"]
        inside = (tail @ w[f"adaptive_softmax.tail.{i}.2.weight"].T).log_softmax(-1)
        parts.append(in_head[..., edges[1] + i, None] + inside)
    return torch.cat(parts, -1)


def checkpoint(
    path: Path, words: int = 150, cutoffs: str = "30,70,110", factor: int = 2, **changes: Any
) -> dict[str, Any]:
    """A checkpoint in fairseq's form with 12 heads and other sizes than the toy's."""
    settings: dict[str, Any] = {
        "decoder_layers": 2,
        "decoder_attention_heads": 12,
        "decoder_embed_dim": 96,
        "decoder_ffn_embed_dim": 80,
        "adaptive_input": True,
        "tie_adaptive_weights": True,
        "tie_adaptive_proj": True,
        "adaptive_input_cutoff": cutoffs,
        "adaptive_softmax_cutoff": cutoffs,
        "adaptive_input_factor": factor,
        "adaptive_softmax_factor": float(factor),
        "decoder_normalize_before": True,
        "no_decoder_final_norm": False,
        "activation_fn": "relu",
        "tokens_per_sample": 20,
        "max_tokens": 90,
        "update_freq": [2],
        "lr": [0.5],
        "warmup_updates": 4,
    }
    args = argparse.Namespace(**settings | changes)
    width, inner = args.decoder_embed_dim, args.decoder_ffn_embed_dim
    model: dict[str, Tensor] = collections.OrderedDict()
    model["decoder.version"] = torch.tensor([3.0])

    def add(name: str, *shape: int) -> Tensor:
        model[f"decoder.{name}"] = torch.randn(shape) * 0.1
        return model[f"decoder.{name}"]

    edges = [0, *map(int, cutoffs.split(",")), words]
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        narrow = width // factor**i
        vectors = add(f"embed_tokens.embeddings.{i}.0.weight", stop - start, narrow)
        projection = add(f"embed_tokens.embeddings.{i}.1.weight", width, narrow)
        if i == 0:
            model["decoder.adaptive_softmax.head.word_proj.weight"] = vectors
        else:
            model[f"decoder.adaptive_softmax.tail.{i - 1}.0.weight"] = projection
            model[f"decoder.adaptive_softmax.tail.{i - 1}.2.weight"] = vectors
    add("adaptive_softmax.head.class_proj.weight", len(edges) - 2, width)
    sizes = {f"self_attn.{n}_proj": (width, width) for n in ("q", "k", "v", "out")}
    sizes |= {"fc1": (inner, width), "fc2": (width, inner)}
    norms = [f"layers.{i}.{n}_layer_norm" for i in range(2) for n in ("self_attn", "final")]
    for layer in range(args.decoder_layers):
        for name, shape in sizes.items():
            add(f"layers.{layer}.{name}.weight", *shape)
            add(f"layers.{layer}.{name}.bias", shape[0])
    for name in norms + ["layer_norm"] * (not args.no_decoder_final_norm):
        add(f"{name}.weight", width)
        add(f"{name}.bias", width)
    content = {
        "args": args,
        "model": model,
        "optimizer_history": [{"num_updates": 40}],
        "extra_state": {"epoch": 3},
    }
    torch.save(content, path)
    return content


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    path = tmp_path / "dict.txt"
    path.write_text("".join(f"w{i} {200 - i}\n" for i in range(146)))
    return path


@pytest.mark.parametrize("no_final_norm", [False, True])
def test_other_sizes_and_twelve_heads(
    converted: Callable[..., Run], tmp_path: Path, dictionary: Path, no_final_norm: bool
) -> None:
    made = checkpoint(tmp_path / "other.pt", no_decoder_final_norm=no_final_norm)
    run = converted(tmp_path / "other.pt", dictionary)
    tokens = torch.randint(150, (2, 50))
    exact = by_the_definition(made["model"], made["args"], tokens)
    ours = log_probabilities(loaded(run), tokens, 150)
    assert (ours - exact).abs().max() < TOLERANCE
    assert run.config.optim.steps == 40
    assert run.config.optim.tokens_per_step == 4 * 20 * 2  # 90 tokens hold 4 sequences, twice
    assert from_dict(to_dict(run.config)) == run.config


def test_the_definition_is_the_authors() -> None:
    """What the other sizes are compared with agrees with the authors' code on the toy."""
    made = read_checkpoint(TOY / "checkpoint_best.pt")
    expected = load_file(TOY / "expected_longer.safetensors")
    exact = by_the_definition(made["model"], made["args"], expected["tokens"])
    assert (exact - expected["log_probs"]).abs().max() < TOLERANCE


def test_cfg_instead_of_args(
    converted: Callable[..., Run], tmp_path: Path, dictionary: Path
) -> None:
    """Later versions of fairseq keep groups of settings."""
    made = checkpoint(tmp_path / "other.pt")
    settings = vars(made["args"])
    task = {"tokens_per_sample": settings.pop("tokens_per_sample")}
    made |= {"args": None, "cfg": {"model": argparse.Namespace(**settings), "task": task}}
    torch.save(made, tmp_path / "later.pt")
    one = converted(tmp_path / "other.pt", dictionary)
    shutil.rmtree(one.path)
    other = converted(tmp_path / "later.pt", dictionary)
    assert one.config.model == other.config.model and other.config.train_length == 20


def test_from_the_command_line(
    in_process: Callable[..., CompletedProcess[str]], text: Path, tmp_path: Path
) -> None:
    """Converted, evaluated at the training length and beyond, with the count of the paper."""
    files = [f"checkpoint={TOY / 'checkpoint_best.pt'}", f"dictionary={TOY / 'dict.txt'}"]
    done = in_process("convert", *files, "data=text", f"data.train=[{text}]", "data.held_out=0.2")
    assert done.returncode == 0, done.stderr
    assert "110,480 parameters, 300 tokens, position=alibi, trained at 24" in done.stdout
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    lengths = "evaluation.lengths=[24,60]"
    done = in_process("evaluate", f"run={run}", lengths, "tracking=off")
    assert done.returncode == 0, done.stderr
    rows = load_run(run).results().values()
    assert {r.row.eval_length for r in rows} == {24, 60}
    assert all(r.row.tokens == r.row.words and r.row.word_ppl == r.row.ppl for r in rows)
    assert sorted(p.name for p in run.iterdir() if p.suffix == ".pt") == []
    assert "does not say how the run was made" in in_process("reproduce", f"run={run}").stderr


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_else_is_created(
    in_process: Callable[..., CompletedProcess[str]], tmp_path: Path, zipped: bool
) -> None:
    made = checkpoint(tmp_path / "other.pt") | {"extra_state": Harmful()}
    path = tmp_path / "harmful.pt"
    torch.save(made, path, _use_new_zipfile_serialization=zipped)
    done = in_process(
        "convert", f"checkpoint={path}", f"dictionary={TOY / 'dict.txt'}", "data=stdlib"
    )
    assert done.returncode == 2
    assert "asks for posix.system" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "harmed").exists() and not (tmp_path / "outputs").exists()


def damaged(kind: str) -> bytes:
    content = bytearray((TOY / "checkpoint_best.pt").read_bytes())
    if kind == "truncated":
        return bytes(content[: len(content) // 2])
    if kind == "altered":
        content[200_000] ^= 255
        return bytes(content)
    return {"empty": b"", "text": b"hello, I am no checkpoint"}[kind]


@pytest.mark.parametrize("kind", ["truncated", "altered", "empty", "text"])
def test_damaged_files(converted: Callable[..., Run], tmp_path: Path, kind: str) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(damaged(kind))
    with pytest.raises(UserError, match=r"is damaged|cannot be read") as caught:
        converted(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activation_fn": "gelu"}, "activation_fn is gelu, and only relu"),
        ({"tie_adaptive_proj": False}, "tie_adaptive_proj is False"),
        ({"decoder_normalize_before": False}, "decoder_normalize_before is False"),
        ({"decoder_layers": None}, "decoder_layers is None, which is not a number"),
        ({"decoder_input_dim": 48}, "decoder_input_dim is 48"),
        ({"decoder_embed_dim": 9600}, "size mismatch"),
        ({"lr": ["fast"]}, "lr is 'fast', which is not a number"),
        ({"max_tokens": "many"}, "max_tokens is 'many', which is not a number"),
        ({"dropout": 1.5}, "model.dropout: given 1.5"),
        ({"adaptive_input_cutoff": "30,70"}, "cutoffs of adaptive input and softmax"),
        ({"adaptive_input_factor": 4}, "factors of adaptive input and softmax"),
    ],
)
def test_other_architectures(
    converted: Callable[..., Run],
    tmp_path: Path,
    dictionary: Path,
    changes: dict[str, Any],
    words: str,
) -> None:
    made = checkpoint(tmp_path / "x.pt")
    made["args"] = argparse.Namespace(**vars(made["args"]) | changes)
    torch.save(made, tmp_path / "other.pt")
    with pytest.raises(UserError, match=words):
        converted(tmp_path / "other.pt", dictionary)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("decoder.layers.1.fc1.bias"), "decoder.layers.1.fc1.bias missing"),
        (lambda m: m.update({"decoder.extra": torch.ones(2)}), "decoder.extra surplus"),
        (
            lambda m: m.update({"decoder.layers.1.self_attn.q_proj.weight": torch.ones(96, 9)}),
            r"Missing key.* .blocks.1.attention.qkv.weight",
        ),
        (lambda m: m.update({"decoder.layers.0.fc1.bias": 3.0}), "is not a named tensor"),
        (lambda m: m.update({7: torch.ones(2)}), "7 of its model is not a named tensor"),
        (
            lambda m: m.update({"decoder.layers.0.fc2.weight": torch.ones(96, 81)}),
            "size mismatch for blocks.0.ffn.2.weight",
        ),
        (
            lambda m: m.update({"decoder.adaptive_softmax.tail.0.2.weight": torch.ones(40, 48)}),
            "tail.0.2.weight is not tied",
        ),
    ],
)
def test_weights_that_do_not_fit(
    converted: Callable[..., Run],
    tmp_path: Path,
    dictionary: Path,
    change: Callable[[dict[str, Tensor]], object],
    words: str,
) -> None:
    made = checkpoint(tmp_path / "x.pt")
    change(made["model"])
    torch.save(made, tmp_path / "other.pt")
    with pytest.raises(UserError, match=words):
        converted(tmp_path / "other.pt", dictionary)
    assert not (tmp_path / "out").exists()


def test_a_dictionary_of_another_size(
    converted: Callable[..., Run], tmp_path: Path, dictionary: Path
) -> None:
    checkpoint(tmp_path / "other.pt")
    dictionary.write_text(dictionary.read_text() + "more 1\n")
    with pytest.raises(UserError, match="the dictionary has 151 words with its specials"):
        converted(tmp_path / "other.pt", dictionary)


def test_another_checkpoint_does_not_take_the_place_of_the_first(
    converted: Callable[..., Run], tmp_path: Path, dictionary: Path
) -> None:
    """Same sizes, same text, other weights: what the first has scored is not the second's."""
    checkpoint(tmp_path / "one.pt")
    run = converted(tmp_path / "one.pt", dictionary)
    weights = run.weights.read_bytes()
    assert converted(tmp_path / "one.pt", dictionary).path == run.path
    checkpoint(tmp_path / "two.pt")
    assert converted(tmp_path / "two.pt", dictionary).path != run.path
    named = converted(tmp_path / "one.pt", dictionary, name="mine")
    with pytest.raises(UserError, match=r"source is '\w+' there .* choose another name"):
        converted(tmp_path / "two.pt", dictionary, name="mine")
    assert named.weights.read_bytes() == weights
    assert run.weights.read_bytes() == weights


def test_a_run_that_was_moved_has_its_dictionary_with_it(
    converted: Callable[..., Run], tmp_path: Path, dictionary: Path
) -> None:
    checkpoint(tmp_path / "one.pt")
    run = converted(tmp_path / "one.pt", dictionary)
    cached = sorted((tmp_path / "cache").iterdir())
    dictionary.unlink()
    moved = load_run(run.path.rename(tmp_path / "elsewhere"))
    data = prepare(moved.config.data, moved.config.tokenizer, tmp_path / "cache")
    assert data.vocab_size == 150 and sorted((tmp_path / "cache").iterdir()) == cached


def test_not_a_fairseq_checkpoint(converted: Callable[..., Run], tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="is not a fairseq checkpoint"):
        converted(tmp_path / "other.pt")
