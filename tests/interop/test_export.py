"""Runs as folders of Hugging Face: what transformers computes with them is what we do."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alibi_lm.config import Config
from alibi_lm.data.tokenizers import BytesConfig, WordsConfig
from alibi_lm.errors import UserError
from alibi_lm.interop.export import export, is_native
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES
from alibi_lm.positions.rotary import RotaryConfig
from alibi_lm.positions.spec import read_spec
from alibi_lm.runs.folder import Run
from alibi_lm.runs.plan import plan_run
from alibi_lm.runs.train import build_model
from alibi_lm.training.checkpoint import pack_weights

transformers = pytest.importorskip("transformers")
SmallConfig = Callable[..., Config]
SIZES = ModelConfig(n_layers=2, n_heads=3, d_model=24, d_ff=40)
NATIVE = {"none": "GPTNeoX", "rotary": "GPTNeoX", "rotary_part": "GPTNeoX", "sinusoidal": "XGLM"}
SCALED: list[dict[str, Any]] = [
    {"theta": 500.0},
    {"scaling": "linear", "factor": 3.0},
    {"scaling": "ntk", "factor": 3.0},
    {"scaling": "dynamic", "factor": 2.0},
    {"scaling": "yarn", "factor": 4.0},
    {"scaling": "llama3", "factor": 4.0, "original_length": 8},
    {"scaling": "longrope", "factor": 4.0, "long_factors": [1.0, 2.0, 3.0, 4.0]},
    {"scaling": "yarn", "factor": 4.0, "part": 0.5},
]


def with_weights(config: Config) -> Run:
    """A run with random weights, biases included, none of which is what it is by default."""
    run = plan_run(config)
    model = build_model(run, 0, "auto")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("position."):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    run.create()
    run.finish(pack_weights(model), n_parameters=model.n_parameters)
    return run


def ours(run: Run) -> Decoder:
    model = build_model(run, None, "auto").eval()
    run.load_weights(model)
    return model


def largest_difference(run: Run, folder: Path, length: int) -> float:
    """Of a token's loss, between the folder's model and the run's, over a text of that length."""
    import alibi_lm.interop.modeling  # noqa: F401

    model = ours(run)
    length = min(length, model.longest or length)
    stream = run.data.split("train").stream[: 2 * length + 1].astype(np.int64)
    tokens = torch.from_numpy(stream)
    inputs, targets = tokens[:-1].view(2, length), tokens[1:].view(2, length)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = theirs(inputs, use_cache=False).logits.float()
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        return float((losses - model(inputs, targets)).abs().max())


@pytest.mark.parametrize("scheme", SCHEMES.choices)
def test_every_scheme(scheme: str, small_config: SmallConfig, tmp_path: Path) -> None:
    """Below and beyond the training length, and natively where there is such a class."""
    config = replace(small_config(), model=SIZES, position=read_spec(scheme, "test"))
    if config.problems():
        config = replace(config, model=replace(SIZES, n_layers=4))  # a list of four layers
    if config.problems():
        pytest.skip("; ".join(config.problems()))
    run = with_weights(config)
    found = export(run, tmp_path / "exported")
    assert found.class_name == f"{NATIVE.get(scheme, 'AlibiLm')}ForCausalLM"
    assert found.is_native == (scheme in NATIVE)
    assert (tmp_path / "exported" / "modeling_alibi_lm.py").exists() != found.is_native
    for length in (9, 16, 150):
        assert largest_difference(run, found.path, length) < 1e-5


@pytest.mark.parametrize("settings", SCALED, ids=str)
def test_rescaled_rotary_is_native(
    settings: dict[str, Any], small_config: SmallConfig, tmp_path: Path
) -> None:
    position = read_spec({"kind": "rotary"} | settings, "test")
    run = with_weights(replace(small_config(), model=SIZES, position=position))
    found = export(run, tmp_path / "exported")
    assert found.is_native
    # Of dynamic frequencies transformers remembers those of longer texts: a short one is read last.
    for length in (12, 150):
        assert largest_difference(run, found.path, length) < 1e-5


@pytest.mark.parametrize(
    ("position", "model"),
    [
        (RotaryConfig(p=0.5), SIZES),
        (RotaryConfig(window=5), SIZES),
        (RotaryConfig(temperature="ssmax"), SIZES),
        (RotaryConfig(), replace(SIZES, final_norm=False)),
        (RotaryConfig(), replace(SIZES, cutoffs=[100, 200], cutoff_factor=2)),
        (read_spec("alibi", "test"), replace(SIZES, cutoffs=[50], cutoff_factor=1)),
    ],
    ids=["p", "window", "temperature", "no norm", "adaptive", "adaptive alibi"],
)
def test_what_is_not_native_is_ours(
    position: Any, model: ModelConfig, small_config: SmallConfig, tmp_path: Path
) -> None:
    assert is_native(position, model) is None
    run = with_weights(replace(small_config(), position=position, model=model))
    found = export(run, tmp_path / "exported")
    assert largest_difference(run, found.path, 150) < 1e-5


@pytest.mark.parametrize("tokenizer", [BytesConfig(), WordsConfig()], ids=["bytes", "words"])
def test_the_tokenizer_is_the_runs(
    tokenizer: Any, small_config: SmallConfig, tmp_path: Path
) -> None:
    run = with_weights(small_config("rotary", tokenizer=tokenizer))
    export(run, tmp_path / "exported")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    stream = run.data.split("train").stream
    assert theirs.eos_token_id == stream[0]
    text = "the cat sat on a mat\n" if tokenizer.kind == "bytes" else "the cat sat\nbirds fly\n"
    tokens = theirs(text).input_ids
    from tokenizers import Tokenizer

    mine = Tokenizer.from_file(str(run.data.tokenizer_file))
    assert tokens == mine.encode(text, add_special_tokens=False).ids
    assert theirs.decode(theirs("the cat").input_ids) == "the cat"


def test_without_our_import(small_config: SmallConfig, tmp_path: Path) -> None:
    """trust_remote_code finds the class; without it and without the import nothing is run."""
    run = with_weights(small_config("alibi"))
    folder = export(run, tmp_path / "exported").path
    load = "from transformers import AutoModelForCausalLM as M; m = M.from_pretrained"
    outcomes = []
    for words in (f"{load}({str(folder)!r}, trust_remote_code=True)", f"{load}({str(folder)!r})"):
        code = f"{words}; print(type(m).__module__, m.decoder.position.slopes.tolist())"
        outcomes.append(
            subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                input="n\n",
                timeout=120,
                check=False,
            )
        )
    with_code, without = outcomes
    assert with_code.returncode == 0, with_code.stderr
    assert with_code.stdout.strip() == f"alibi_lm.interop.modeling {[2**-4, 2**-8]}"
    assert without.returncode != 0


def test_it_is_a_model_of_transformers(small_config: SmallConfig, tmp_path: Path) -> None:
    """Labels, logits of some tokens, generation, saving again; padding on the left is refused."""
    from alibi_lm.interop.modeling import AlibiLmForCausalLM

    run = with_weights(small_config("bipe"))
    folder = export(run, tmp_path / "exported").path
    model = AlibiLmForCausalLM.from_pretrained(folder).eval()
    tokens = torch.from_numpy(run.data.split("train").stream[:31].astype(np.int64))[None]
    with torch.inference_mode():
        whole = model(tokens, labels=tokens)
        last = model(tokens, logits_to_keep=2).logits
        chosen = model(tokens, logits_to_keep=torch.tensor([3, 7])).logits
        mine = ours(run)(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(whole.loss, mine.mean(), atol=1e-5, rtol=0)
    torch.testing.assert_close(last, whole.logits[:, -2:])
    torch.testing.assert_close(chosen, whole.logits[:, [3, 7]])
    torch.testing.assert_close(whole.logits.logsumexp(-1), torch.zeros(1, 31), atol=1e-5, rtol=0)
    found = model.generate(tokens[:, :5], max_new_tokens=4, do_sample=False)
    expected = tokens[:, :5]
    for _ in range(4):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert found.tolist() == expected.tolist()
    mask = torch.ones_like(tokens)
    mask[:, 0] = 0
    with pytest.raises(ValueError, match="pad on the right"):
        model(tokens, attention_mask=mask)
    with torch.inference_mode():
        padded = model(tokens, attention_mask=mask.flip(-1).bool()).logits
    torch.testing.assert_close(padded, whole.logits)
    model.save_pretrained(tmp_path / "again")
    again = AlibiLmForCausalLM.from_pretrained(tmp_path / "again").eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(tokens).logits, whole.logits)


def test_a_folder_is_written_whole_or_not_at_all(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_weights(small_config("rotary"))
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(UserError, match="there exists; name another folder"):
        export(run, there)
    # Numbers in a wrong place are noticed before the folder has its name.
    from alibi_lm.interop import export as module

    wrong = module.neox_weights

    def mixed_up(*arguments: Any) -> Any:
        found = wrong(*arguments)
        name = "gpt_neox.layers.0.attention.query_key_value.weight"
        return found | {name: found[name].flip(0)}

    monkeypatch.setattr(module, "neox_weights", mixed_up)
    with pytest.raises(UserError, match=r"differs by .* nats; nothing was written"):
        export(run, tmp_path / "exported")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "out", "there"]


def test_from_the_command_line(
    small_config: SmallConfig, tmp_path: Path, script: Callable[..., Any]
) -> None:
    run = with_weights(small_config("sinusoidal"))
    done = script("export", f"run={run.path}")
    assert done.returncode == 0, done.stderr
    assert "huggingface: XGLMForCausalLM, losses within" in done.stdout
    values = json.loads((run.path / "huggingface" / "config.json").read_text())
    assert (values["model_type"], values["max_position_embeddings"]) == ("xglm", 16)
    for words, line in (
        ([f"run={run.path}"], "huggingface exists; name another folder"),
        ([], "run: not given; name the folder of a trained run"),
        (["run=nowhere"], "nowhere is not a run folder"),
    ):
        done = script("export", *words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert line in done.stderr
