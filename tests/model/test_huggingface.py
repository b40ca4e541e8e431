"""Models of transformers as subjects: token losses against the logits of the classes themselves."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import (
    ARCHITECTURES,
    BEYOND,
    LONGEST,
    VOCAB,
    as_loaded,
    losses_of,
    save_model,
    tokens_of,
)

from alibi_lm.errors import UserError
from alibi_lm.interop.huggingface import look_up
from alibi_lm.model.huggingface import (
    HuggingfaceConfig,
    HuggingfaceModel,
    _agree,
    hash_of,
)
from alibi_lm.model.softmax import UNSCORED

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.inference_mode()
def test_token_losses_are_those_of_the_class(name: str, tiny_model: Callable[[str], Path]) -> None:
    ours = HuggingfaceModel(
        look_up(HuggingfaceConfig(str(tiny_model(name))))[0], longest_read=BEYOND
    )
    theirs = as_loaded(tiny_model(name), **({"max_seq_len": BEYOND} if name == "MptConfig" else {}))
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
def test_a_table_of_positions_ends(name: str, tiny_model: Callable[[str], Path]) -> None:
    model = HuggingfaceModel(HuggingfaceConfig(str(tiny_model(name))))
    assert model.longest == LONGEST
    assert model.refusal(LONGEST, None) is None
    assert model.refusal(LONGEST + 1, None) == f"it has {LONGEST} positions"


@pytest.mark.parametrize("name", ["LlamaConfig", "Qwen3Config", "Gemma2Config", "GPTNeoXConfig"])
@torch.inference_mode()
def test_a_window_hides_what_is_further_back(name: str, tiny_model: Callable[[str], Path]) -> None:
    model = HuggingfaceModel(HuggingfaceConfig(str(tiny_model(name))))
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


def test_windows_that_cannot_be_are_refused(tiny_model: Callable[[str], Path]) -> None:
    mistral = HuggingfaceModel(HuggingfaceConfig(str(tiny_model("MistralConfig"))))
    assert mistral.refusal(40, 12) is None
    assert mistral.refusal(40, 30) == "layers have a window of their own, of 24"
    # Of a model that sees pictures too, the language model's window counts.
    for name, line in [
        ("Gemma3Config", "layers have a window of their own, of 24"),
        ("Llama4TextConfig", "layers attend in chunks of 24"),
    ]:
        model = HuggingfaceModel(HuggingfaceConfig(str(tiny_model(name))))
        assert model.in_pieces
        assert model.refusal(40, 30) == line
    for name in ("BloomConfig", "MambaConfig"):
        model = HuggingfaceModel(HuggingfaceConfig(str(tiny_model(name))))
        assert "takes no window" in (model.refusal(40, 12) or "")


def test_infinite_logits_are_compared_too() -> None:
    low = torch.tensor([1.0, -math.inf])
    assert _agree(low, low) and _agree(low * math.nan, low * math.nan)
    assert not _agree(low, torch.tensor([1.0, 2.0]))
    assert not _agree(low, torch.tensor([1.1, -math.inf]))


@torch.inference_mode()
def test_16_bits(tiny_model: Callable[[str], Path]) -> None:
    model = HuggingfaceModel(HuggingfaceConfig(str(tiny_model("Gemma2Config"))), "bfloat16")
    assert model.in_pieces and not model.casts
    tokens = tokens_of(40)
    theirs = as_loaded(tiny_model("Gemma2Config"), dtype=torch.bfloat16)
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


def test_the_hash_is_of_the_weights(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    before = hash_of(HuggingfaceConfig(str(tiny_model("LlamaConfig"))))
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
