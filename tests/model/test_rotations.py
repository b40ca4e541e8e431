"""Rotations of models of transformers, rescaled: against a model that it loads so, and ours."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import BEYOND, LAYERS, LONGEST, VOCAB, as_loaded, losses_of, save_model, tokens_of

from alibi_lm.errors import UserError
from alibi_lm.interop.huggingface import look_up
from alibi_lm.model.huggingface import HuggingfaceConfig, HuggingfaceModel
from alibi_lm.model.rotations import rotations_of
from alibi_lm.positions import SCHEMES
from alibi_lm.positions.rope_parameters import read_rope_parameters, rope_parameters
from alibi_lm.positions.spec import read_spec

pytest.importorskip("transformers")
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


@pytest.mark.parametrize("reading", READINGS, ids=str)
@pytest.mark.parametrize("name", ["LlamaConfig", "GPTNeoXConfig", "Gemma3TextConfig"])
@torch.inference_mode()
def test_readings_are_those_of_transformers(
    name: str, reading: dict[str, Any], tiny_model: Callable[[str], Path]
) -> None:
    """And the frequencies in its modules are ours."""
    settings, config = look_up(HuggingfaceConfig(str(tiny_model(name))))
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
    model = HuggingfaceModel(settings)
    model.rotations.read_as(position, trained, sizes)
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
        theirs = as_loaded(tiny_model(name), config=changed)
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
    model.rotations.read_as(read, global_layers, sizes)
    model(tokens[:, :-1], tokens[:, 1:])
    (after,) = rotations_of(model.model).values()
    assert torch.equal(after.sliding_attention_inv_freq, before.sliding_attention_inv_freq)
    assert torch.equal(after.full_attention_inv_freq * 4, before.full_attention_inv_freq)
    model.rotations.read_as(global_layers, global_layers, sizes)
    again = model(tokens[:, :-1], tokens[:, 1:])
    assert torch.equal(again, plain)
    nobody = replace(global_layers, theta=123.0)
    with pytest.raises(UserError, match=r"no layer of .* rotates as its run says"):
        model.rotations.read_as(read, nobody, sizes)
