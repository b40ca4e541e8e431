"""Models of transformers as subjects: token losses against the logits of the classes themselves."""

import copy
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import ARCHITECTURES, LAYERS, LONGEST, VOCAB, save_model
from torch import Tensor

from alibi_lm.errors import UserError
from alibi_lm.interop.huggingface import look_up
from alibi_lm.model.huggingface import (
    HuggingfaceConfig,
    HuggingfaceModel,
    _agree,
    hash_of,
    rotations_of,
)
from alibi_lm.model.softmax import UNSCORED
from alibi_lm.positions import SCHEMES
from alibi_lm.positions.rope_parameters import read_rope_parameters, rope_parameters
from alibi_lm.positions.spec import read_spec

transformers = pytest.importorskip("transformers")
BEYOND = 150
READINGS: list[dict[str, Any]] = [
    {"theta": 5e5},
    {"scaling": "linear", "factor": 4.0},
    {"scaling": "ntk", "factor": 4.0},
    {"scaling": "dynamic", "factor": 2.0},
    {"scaling": "yarn", "factor": 4.0},
    {"scaling": "yarn", "factor": 4.0, "beta_fast": 8.0, "attention_factor": 1.5},
    {"scaling": "llama3", "factor": 8.0, "original_length": 24},
    {"scaling": "longrope", "factor": 4.0, "long_factors": [1.0, 2.0, 3.0, 4.0]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a small model of an architecture."""
    made: dict[str, Path] = {}

    def call(name: str) -> Path:
        if name not in made:
            made[name] = save_model(tmp_path_factory.mktemp("models") / name, name)
        return made[name]

    return call


def tokens_of(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, VOCAB, (2, length + 1), generator=generator)


def losses_of(model: Any, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def as_loaded(folder: Path, **settings: Any) -> Any:
    """What a user of transformers would call."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **settings).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.inference_mode()
def test_token_losses_are_those_of_the_class(name: str, folder: Any) -> None:
    ours = HuggingfaceModel(look_up(HuggingfaceConfig(str(folder(name))))[0], longest_read=BEYOND)
    theirs = as_loaded(folder(name), **({"max_seq_len": BEYOND} if name == "MptConfig" else {}))
    assert ours.in_pieces
    for length in (7, LONGEST - 8, ours.longest or BEYOND):
        tokens = tokens_of(length)
        found = ours(tokens[:, :-1], tokens[:, 1:])
        assert (found - losses_of(theirs, tokens)).abs().max() < 1e-5
    # With a target in the middle left out, the others stay.
    targets = tokens[:, 1:].clone()
    targets[:, 3] = UNSCORED
    again = ours(tokens[:, :-1], targets)
    assert (again[:, 3] == 0).all()
    torch.testing.assert_close(again[:, 4:], found[:, 4:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n, (_, kind) in ARCHITECTURES.items() if kind == "learned"])
def test_a_table_of_positions_ends(name: str, folder: Any) -> None:
    model = HuggingfaceModel(HuggingfaceConfig(str(folder(name))))
    assert model.longest == LONGEST
    assert model.refusal(LONGEST, None) is None
    assert model.refusal(LONGEST + 1, None) == f"it has {LONGEST} positions"


@pytest.mark.parametrize("name", ["LlamaConfig", "Qwen3Config", "Gemma2Config", "GPTNeoXConfig"])
@torch.inference_mode()
def test_a_window_hides_what_is_further_back(name: str, folder: Any) -> None:
    model = HuggingfaceModel(HuggingfaceConfig(str(folder(name))))
    assert model.refusal(40, 5) is None
    tokens = tokens_of(40)
    found = model(tokens[:, :-1], tokens[:, 1:], window=5)
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % VOCAB
    changed = (model(other[:, :-1], other[:, 1:], window=5) - found).abs().amax(0)
    reach = 2 * (5 - 1)  # of two layers
    assert changed[reach + 1 :].max() < 1e-5 < changed[: reach + 1].max()
    whole = model(tokens[:, :-1], tokens[:, 1:], window=40 if name != "Gemma2Config" else 24)
    same = 24 if name == "Gemma2Config" else 40
    plain = model(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(whole[:, :same], plain[:, :same], atol=1e-5, rtol=0)


def test_windows_that_cannot_be_are_refused(folder: Any) -> None:
    mistral = HuggingfaceModel(HuggingfaceConfig(str(folder("MistralConfig"))))
    assert mistral.refusal(40, 12) is None
    assert mistral.refusal(40, 30) == "layers have a window of their own, of 24"
    # Of a model that sees pictures too, the language model's window counts.
    for name, line in [
        ("Gemma3Config", "layers have a window of their own, of 24"),
        ("Llama4TextConfig", "layers attend in chunks of 24"),
    ]:
        model = HuggingfaceModel(HuggingfaceConfig(str(folder(name))))
        assert model.in_pieces
        assert model.refusal(40, 30) == line
    for name in ("BloomConfig", "MambaConfig"):
        model = HuggingfaceModel(HuggingfaceConfig(str(folder(name))))
        assert "takes no window" in (model.refusal(40, 12) or "")


@pytest.mark.parametrize("reading", READINGS, ids=str)
@pytest.mark.parametrize("name", ["LlamaConfig", "GPTNeoXConfig", "Gemma3TextConfig"])
@torch.inference_mode()
def test_readings_are_those_of_transformers(
    name: str, reading: dict[str, Any], folder: Any
) -> None:
    """And the frequencies in its modules are ours."""
    settings, config = look_up(HuggingfaceConfig(str(folder(name))))
    sizes, part = settings.sizes(LONGEST), 0.25 if name == "GPTNeoXConfig" else 1.0
    if "long_factors" in reading:
        reading = reading | {
            "long_factors": [1.0, 2.0, 3.0, 4.0][: int(sizes.head_dim * part) // 2]
        }
    layered = name == "Gemma3TextConfig"
    base = read_spec({"kind": "rotary", "part": part}, "test")
    position = read_spec(reading, "test", base=base)
    assert position.problems(sizes) == []
    trained = read_spec({"kind": "rotary", "part": part, "theta": 1e4}, "test")
    if layered:
        trained = replace(trained, theta=1e6)
    model = HuggingfaceModel(settings).read_as(position, trained, sizes)
    parameters, max_length = rope_parameters(position, sizes)
    changed = copy.deepcopy(config)
    changed.max_position_embeddings = max_length
    if layered:
        by_type = changed.rope_parameters
        parameters = by_type | {"full_attention": by_type["full_attention"] | parameters}
    changed.rope_parameters = parameters
    for length in (20, BEYOND, 20):  # what is read before leaves no trace
        tokens = tokens_of(length)
        found = model(tokens[:, :-1], tokens[:, 1:])
        theirs = as_loaded(folder(name), config=changed)
        assert (found - losses_of(theirs, tokens)).abs().max() < 1e-5
        ours = SCHEMES.build(position, sizes)
        (rotary,) = rotations_of(model.model).values()
        of_layers = "full_attention_" if layered else ""
        there = getattr(rotary, f"{of_layers}inv_freq")
        torch.testing.assert_close(there, ours.frequencies(length), rtol=1e-5, atol=0)
        scale = getattr(rotary, f"{of_layers}attention_scaling")
        assert scale == pytest.approx(ours.attention_factor)


@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_rope_parameters_there_and_back(reading: dict[str, Any]) -> None:
    if reading.get("scaling") == "ntk":
        return  # it is a larger theta there
    sizes = HuggingfaceConfig(n_heads=4, head_dim=8).sizes(LONGEST)
    position = read_spec({"kind": "rotary"} | reading, "test")
    parameters, max_length = rope_parameters(position, sizes)
    again = read_rope_parameters(parameters, max_length, LONGEST)
    assert again is not None
    assert rope_parameters(again, sizes) == (parameters, max_length)


@torch.inference_mode()
def test_layers_that_rotate_otherwise_stay(tmp_path: Path) -> None:
    """As loaded, each module is its own; a reading changes those that rotate as the run says."""
    settings = {"vocab_size": VOCAB, "num_hidden_layers": 2, "layer_types": LAYERS}
    folder = save_model(tmp_path, "Gemma3TextConfig", **settings)
    sizes = look_up(HuggingfaceConfig(str(folder)))[0].sizes(LONGEST)
    model = HuggingfaceModel(HuggingfaceConfig(str(folder)))
    global_layers = read_spec({"kind": "rotary", "theta": 1e6}, "test")
    read = replace(global_layers, scaling="linear", factor=4.0)
    (before,) = copy.deepcopy(rotations_of(model.model)).values()
    tokens = tokens_of(60)
    plain = model(tokens[:, :-1], tokens[:, 1:])
    model.read_as(read, global_layers, sizes)(tokens[:, :-1], tokens[:, 1:])
    (after,) = rotations_of(model.model).values()
    assert torch.equal(after.sliding_attention_inv_freq, before.sliding_attention_inv_freq)
    assert torch.equal(after.full_attention_inv_freq * 4, before.full_attention_inv_freq)
    again = model.read_as(global_layers, global_layers, sizes)(tokens[:, :-1], tokens[:, 1:])
    assert torch.equal(again, plain)
    nobody = replace(global_layers, theta=123.0)
    with pytest.raises(UserError, match=r"no layer of .* rotates as its run says"):
        model.read_as(read, nobody, sizes)


def test_infinite_logits_are_compared_too() -> None:
    low = torch.tensor([1.0, -math.inf])
    assert _agree(low, low) and _agree(low * math.nan, low * math.nan)
    assert not _agree(low, torch.tensor([1.0, 2.0]))
    assert not _agree(low, torch.tensor([1.1, -math.inf]))


@torch.inference_mode()
def test_16_bits(folder: Any) -> None:
    model = HuggingfaceModel(HuggingfaceConfig(str(folder("Gemma2Config"))), "bfloat16")
    assert model.in_pieces and not model.casts
    tokens = tokens_of(40)
    theirs = as_loaded(folder("Gemma2Config"), dtype=torch.bfloat16)
    found = model(tokens[:, :-1], tokens[:, 1:])
    assert (found - losses_of(theirs, tokens)).abs().max() < 0.1


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no causal language model: BertLMHeadModel sees"):
        HuggingfaceModel(HuggingfaceConfig(str(tmp_path)))


def test_the_hash_is_of_the_weights(folder: Any, tmp_path: Path) -> None:
    before = hash_of(HuggingfaceConfig(str(folder("LlamaConfig"))))
    again = save_model(tmp_path / "moved", "LlamaConfig")
    (again / "README.md").write_text("of no account")
    assert hash_of(HuggingfaceConfig(str(again))) == before
    weights = bytearray((again / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (again / "model.safetensors").write_bytes(weights)
    assert hash_of(HuggingfaceConfig(str(again))) != before


def test_logits_are_never_held_whole(tmp_path: Path) -> None:
    """A vocabulary of 50,000 at 4,096 tokens: 800 MB of logits, of which 64 are there at a time."""
    folder = save_model(tmp_path, "LlamaConfig", vocab_size=50_000, num_hidden_layers=1)
    code = (
        "import resource, torch\n"
        "from alibi_lm.model.huggingface import HuggingfaceConfig, HuggingfaceModel\n"
        f"model = HuggingfaceModel(HuggingfaceConfig({str(folder)!r}))\n"
        "tokens = torch.randint(50_000, (1, 4097))\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with torch.inference_mode():\n"
        "    model(tokens[:, :65], tokens[:, 1:66]); before = peak()\n"
        "    losses = model(tokens[:, :-1], tokens[:, 1:])\n"
        "assert losses.isfinite().all()\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250_000  # kB
