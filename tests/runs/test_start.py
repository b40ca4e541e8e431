"""Training on from the weights of another run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import evaluated, trained

from alibi_lm.config import Config
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.data.tokenizers import BpeConfig, FileConfig
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.model.config import ModelConfig
from alibi_lm.positions import SCHEMES
from alibi_lm.positions.spec import read_spec
from alibi_lm.runs.curve import CurveFile
from alibi_lm.runs.folder import Run, load_run
from alibi_lm.runs.plan import plan_run
from alibi_lm.runs.start import load_start
from alibi_lm.runs.train import Trainer, build_model, train_run
from alibi_lm.tracking import NO_TRACKING
from alibi_lm.training.optim import AdamwConfig

SmallConfig = Callable[..., Config]
SHORT = AdamwConfig(steps=2, warmup_steps=0, tokens_per_step=64, lr=1e-3)


@pytest.fixture
def parent(small_config: SmallConfig) -> Run:
    return trained(small_config("rotary"))


def started(run: Run) -> dict[str, torch.Tensor]:
    """The weights of a run's model before its first update."""
    model = build_model(run, run.config.seed, "auto")
    assert isinstance(run.config, Config) and run.config.start is not None
    load_start(model, run.config.start, run.identity.values["source"])
    return dict(model.named_parameters())


@pytest.mark.parametrize("scheme", [s for s in SCHEMES.choices if s not in ("layered",)])
def test_every_scheme_starts_from_a_rotary_model(
    scheme: str, parent: Run, small_config: SmallConfig
) -> None:
    """All but its own parameters are the parent's; those are a new model's."""
    position = read_spec(scheme, "test")
    config = replace(small_config(), position=position, start=str(parent.path), optim=SHORT)
    if config.problems():
        pytest.skip("not at this size")
    run = plan_run(config)
    weights, theirs = started(run), parent.read_weights()
    fresh = dict(build_model(run, run.config.seed, "auto").named_parameters())
    for name, weight in weights.items():
        expected = fresh[name] if name.startswith("position.") else theirs[name]
        torch.testing.assert_close(weight, expected, rtol=0, atol=0)
    assert {n for n in theirs if not n.startswith("position.")} <= weights.keys()


def test_what_a_scheme_learned_goes_on(small_config: SmallConfig) -> None:
    parent = trained(small_config("t5"))
    child = plan_run(small_config({"kind": "t5", "num_buckets": 32}, start=str(parent.path)))
    theirs = parent.read_weights()
    (name,) = [n for n in theirs if n.startswith("position.")]
    torch.testing.assert_close(started(child)[name], theirs[name], rtol=0, atol=0)
    # Of another shape it is drawn anew.
    other = plan_run(small_config({"kind": "t5", "num_buckets": 16}, start=str(parent.path)))
    assert started(other)[name].shape != theirs[name].shape


def test_training_goes_on_from_there(parent: Run, small_config: SmallConfig) -> None:
    """The first updates' loss is near the parent's, not near that of a new model."""
    child = trained(small_config("rotary", start=str(parent.path), optim=SHORT))
    lengths = EvaluationConfig(lengths=[16])
    before, after = (evaluated(run, lengths)[0].row.loss for run in (parent, child))
    assert after < before + 0.05
    unlike = trained(small_config("alibi", start=str(parent.path), optim=SHORT))
    assert evaluated(unlike, lengths)[0].row.loss < before + 0.3


def test_the_parent_is_part_of_the_identity(parent: Run, small_config: SmallConfig) -> None:
    alone = plan_run(small_config("alibi", optim=SHORT))
    child = plan_run(small_config("alibi", start=str(parent.path), optim=SHORT))
    assert child.path != alone.path
    assert child.identity.values["source"] == parent.manifest()["weights_sha256"]
    recipe = parent.identity.recipe
    assert f"start=rotary-L16-{recipe}" in child.identity.settings.split()
    # Where it lies does not count.
    moved = parent.path.rename(parent.path.with_name("elsewhere"))
    assert plan_run(small_config("alibi", start=str(moved), optim=SHORT)).path == child.path
    # Parents that differ in seed alone give children that compare.
    other = trained(small_config("rotary", seed=1))
    second = plan_run(small_config("alibi", start=str(other.path), seed=1, optim=SHORT))
    assert second.identity.recipe == child.identity.recipe
    assert second.identity.hash != child.identity.hash


def test_a_trained_child_needs_no_parent(
    parent: Run, small_config: SmallConfig, tmp_path: Path
) -> None:
    child = trained(small_config("none", start=str(parent.path), optim=SHORT))
    parent.path.rename(tmp_path / "gone")
    again = load_run(child.path)
    assert again.identity == child.identity
    assert evaluated(again, EvaluationConfig(lengths=[16]))[0].row.settings == (
        child.identity.settings
    )


def test_weights_that_changed_since_are_refused(
    parent: Run, small_config: SmallConfig, tmp_path: Path
) -> None:
    """Before the first update; a training that has begun needs its parent no more."""
    child = plan_run(small_config("alibi", start=str(parent.path), optim=SHORT))
    begun = replace(small_config("t5", start=str(parent.path)), checkpoint_seconds=0)
    begun = replace(begun, optim=replace(begun.optim, steps=20))
    run = plan_run(begun)
    run.create()
    trainer = Trainer(run, NO_TRACKING)
    trainer.curve = CurveFile(run.curve, 0)
    trainer.step = 1
    trainer._save()
    parent.weights.unlink()
    other = trained(small_config("rotary", seed=3))
    parent.weights.write_bytes(other.weights.read_bytes())
    parent.update_manifest(weights_sha256=other.manifest()["weights_sha256"])
    with pytest.raises(UserError, match="whose weights have changed since"):
        train_run(child)
    assert Trainer(run, NO_TRACKING).step == 1


def test_another_length_and_another_text(
    parent: Run, small_config: SmallConfig, tmp_path: Path
) -> None:
    position = {"kind": "rotary", "scaling": "yarn", "factor": 4.0, "original_length": 16}
    child = trained(small_config(position, start=str(parent.path), train_length=32, optim=SHORT))
    assert child.config.train_length == 32
    other = tmp_path / "other.txt"
    other.write_text("birds fly and saw twenty cats on a mat\n" * 300)
    text = TextConfig(train=[str(other)], held_out=0.2)
    with pytest.raises(UserError, match=r"its tokenizer is another; .*tokenizer\.path="):
        plan_run(small_config("rotary", start=str(parent.path), data=text))
    same = FileConfig(path=str(parent.tokenizer))
    run = plan_run(small_config("rotary", start=str(parent.path), data=text, tokenizer=same))
    assert run.data.tokenizer_hash == parent.data.tokenizer_hash


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": ModelConfig(n_layers=1, n_heads=2, d_model=32, d_ff=32)}, "d_model is 16 there"),
        ({"model": ModelConfig(n_layers=1, n_heads=4, d_model=16, d_ff=32)}, "n_heads is 2 there"),
        ({"tokenizer": BpeConfig(vocab_size=270)}, "its tokenizer is another"),
        ({"start": "nowhere"}, "start: nowhere is not a run folder"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    changes: dict[str, Any], line: str, parent: Run, small_config: SmallConfig
) -> None:
    with pytest.raises(UserError, match=line):
        plan_run(small_config("alibi", **{"start": str(parent.path)} | changes))


def test_an_unfinished_run_is_no_start(small_config: SmallConfig) -> None:
    run = plan_run(small_config("rotary"))
    run.create()
    with pytest.raises(UserError, match="is not completely trained"):
        plan_run(small_config("alibi", start=str(run.path)))


def test_a_dropout_may_differ(parent: Run, small_config: SmallConfig) -> None:
    model = ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=32, dropout=0.1)
    plan_run(small_config("alibi", start=str(parent.path), model=model))
