"""Every file in configs/ composes and validates; what cannot be is said in a line each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from samples import composed

from alibi_lm.benchmark.measure import BenchmarkConfig
from alibi_lm.cli import CONFIGS
from alibi_lm.config import Config, from_dict, to_dict
from alibi_lm.errors import SettingsError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.model.config import ModelConfig
from alibi_lm.positions import SCHEMES
from alibi_lm.runs.evaluate import EvaluateConfig
from alibi_lm.settings import REGISTRIES

# What a choice needs beside itself to be a whole configuration.
ALSO = {
    "data/text": ["data.train=[a]", "data.held_out=0.1"],
    "data/hub": ["data.name=owner/name"],
    "tokenizer/file": [f"tokenizer.path={Path(__file__)}"],
    "scale/smoke": ["experiment=extrapolation"],
    "scale/small": ["experiment=extrapolation"],
    "scale/paper": ["experiment=extrapolation"],
}
FOR_THE_BENCHMARK = ("experiment/speed",)


@pytest.mark.parametrize(
    "file", [path.relative_to(CONFIGS).with_suffix("") for path in sorted(CONFIGS.glob("*/*.yaml"))]
)
def test_every_choice_composes(file: Path) -> None:
    choice = [f"{file.parent}={file.name}", *ALSO.get(str(file), [])]
    if str(file) in FOR_THE_BENCHMARK:
        assert composed(*choice, kind=BenchmarkConfig, name="benchmark").problems() == []
    else:
        assert isinstance(composed(*choice), Config)


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_kind_is_a_choice_by_its_name(group: str) -> None:
    for name, kind in REGISTRIES[group].settings.items():
        also = ALSO.get(f"{group}/{name}", [])
        assert type(getattr(composed(f"{group}={name}", *also), group)) is kind


def test_defaults_of_the_command_line_and_of_python_agree() -> None:
    """So that a configuration made in Python is the one that the command line makes."""
    assert composed() == Config()


def test_round_trip(small_config: Callable[..., Config]) -> None:
    for name in SCHEMES.settings:
        config = small_config(name)
        assert from_dict(to_dict(config)) == config


def problems(*overrides: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        composed(*overrides)
    return caught.value.problems


def test_every_problem_is_told_at_once() -> None:
    lines = problems("seed=-1", "model.dropout=1", "model.n_heads=7", "optim.warmup_steps=501")
    assert lines == [
        "seed: given -1, but it must be at least 0",
        "model.dropout: given 1.0, but it must be below 1",
        "model.n_heads: given 7, but it must divide model.d_model = 192",
        "optim.warmup_steps: given 501, but it must be at most optim.steps = 500",
    ]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train_length=100"], "optim.tokens_per_step: given 1024, but it must be a multiple"),
        (
            ["optim.micro_batch_size=3"],
            "given 3, but it must divide the 16 sequences",
        ),
        (["evaluation.lengths=[]"], "evaluation.lengths: given none"),
        (
            ["evaluation.protocols=[sliding]", "evaluation.stride=65"],
            "evaluation.stride: given 65, but it must be at most the shortest",
        ),
        (["evaluation.protocols=[sliding]"], "evaluation.stride: not given"),
        (["evaluation.stride=4"], "only sliding has a stride; add evaluation.protocols=[sliding]"),
        (["evaluation.protocols=[]"], "evaluation.protocols: given none"),
        (["evaluation.protocols=[slidng]"], "one of nonoverlapping, sliding, same_targets"),
        (["evaluation.attention=[]"], "evaluation.attention: given none"),
        (["evaluation.window=8"], "add evaluation.attention=[window]"),
        (["evaluation.targets=0"], "evaluation.targets: given 0, but it must be at least 1"),
        (["optim.min_lr=1"], "optim.min_lr: given 1.0, but it must be at most optim.lr"),
        (["+foo=1"], "setting 'foo' does not exist"),
        (["+model.n_layer=1"], "(did you mean model.n_layers?)"),
        (["output="], "output: given '', but it must name a folder"),
        (["seed=4294967296"], "seed: given 4294967296, but it must be below 4294967296"),
        (["position=rotary", "model.d_model=6", "model.n_heads=2"], "needs an even head size"),
        (["position=sinusoidal", "model.d_model=5", "model.n_heads=1"], "needs an even width"),
        (["model.cutoffs=[5,5]"], "model.cutoffs: given [5, 5], but they must increase"),
        (["model.cutoffs=[9,5]"], "model.cutoffs: given [9, 5], but they must increase"),
        (["model.cutoffs=[1,2,3,4]"], "narrower than 1"),
        (["model.softmax_dropout=0.1"], "set model.cutoffs"),
        (["optim=paper", "optim.momentum=1"], "optim.momentum: given 1.0, but it must be below 1"),
        (["position=t5", "position.num_buckets=7"], "the buckets must be even in number"),
    ],
)
def test_impossible(overrides: list[str], line: str) -> None:
    (only,) = problems(*overrides)
    assert line in only


def test_derived_sizes() -> None:
    config = composed("optim.tokens_per_step=4096", "optim.micro_batch_size=16")
    assert config.sequences_per_step == 64
    assert config.grad_accum_steps() == 4
    assert composed().grad_accum_steps() == 1


def test_evaluation_needs_a_run() -> None:
    assert "run: not given" in EvaluateConfig().problems()[0]
    wanted = EvaluationConfig(lengths=[4], targets=0)
    assert len(replace(EvaluateConfig(run="x"), evaluation=wanted).problems()) == 1


def test_lengths_relative_to_the_training_length() -> None:
    wanted = EvaluationConfig(lengths=[8, 64, 32], lengths_past_training=[0, 1, 32])
    assert wanted.lengths_of(32) == [8, 64, 32, 33]
    assert replace(wanted, skip_shorter=True).lengths_of(32) == [64, 32, 33]
    assert replace(wanted, lengths=[]).lengths_of(100) == [100, 101, 132]
    assert replace(wanted, lengths=[]).problems() == []
    # The stride is compared with the lengths that are evaluated, and with no others.
    sliding = replace(wanted, protocols=["sliding"], stride=20)
    assert sliding.length_problems(32) == [
        "evaluation.stride: given 20, but it must be at most the shortest of the evaluation "
        "lengths, [8, 64, 32, 33]"
    ]
    assert replace(sliding, skip_shorter=True).length_problems(32) == []
    assert replace(sliding, lengths=[], skip_shorter=True).length_problems(16)
    (only,) = problems(
        "evaluation.skip_shorter=true", "train_length=2048", "optim.tokens_per_step=2048"
    )
    assert "none is at least train_length = 2048" in only


def test_model_presets() -> None:
    paper = composed("model=paper").model
    assert paper == ModelConfig(
        n_layers=16,
        n_heads=8,
        d_model=1024,
        d_ff=4096,
        dropout=0.3,
        attention_dropout=0.1,
        activation_dropout=0.1,
        final_norm=False,
        init="fairseq",
        cutoffs=[20000, 60000],
        cutoff_factor=4,
        softmax_dropout=0.2,
    )
    assert composed("model=small").model.d_model == 512
