import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import trained

from alibi_lm.config import Config
from alibi_lm.errors import NonfiniteError, UserError
from alibi_lm.runs.curve import read_curve
from alibi_lm.runs.plan import batches_of, plan_run
from alibi_lm.training.checkpoint import Checkpoints
from alibi_lm.training.optim import AdamwConfig


def test_a_backend_that_cannot_train_the_scheme_trains_nothing(
    small_config: Callable[..., Config],
) -> None:
    config = small_config("t5", backend="coordinates")
    with pytest.raises(UserError, match="backend: given coordinates, but coordinates cannot"):
        trained(config)
    with pytest.raises(UserError, match="flex has no gradients on a CPU"):
        trained(replace(config, backend="flex"))
    assert not Path(config.output).exists()


def test_a_run_folder_holds_everything(small_config: Callable[..., Config]) -> None:
    config = small_config()
    run = trained(config)
    assert run.is_trained
    metrics = read_curve(run.curve)
    assert metrics[-1]["step"] == config.optim.steps
    assert metrics[-1]["tokens"] == config.optim.steps * config.optim.tokens_per_step
    assert math.isfinite(metrics[-1]["loss"])
    manifest = run.manifest()
    assert manifest["train_tokens_per_second"] > 0
    assert manifest["backend"] == "row"
    assert 0 < manifest["first_step_seconds"] < manifest["train_seconds"]
    (session,) = manifest["sessions"]
    assert (session["after_step"], session["deterministic"]) == (0, True)
    assert session["packages"]["torch"] == torch.__version__
    assert not run.checkpoints.exists()


def test_a_trained_run_is_not_trained_again(
    small_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config()
    before = trained(config).weights.read_bytes()
    capsys.readouterr()
    run = trained(config)
    assert "is already trained" in capsys.readouterr().out
    assert run.weights.read_bytes() == before


def test_a_loss_that_is_nan_stops_the_run(small_config: Callable[..., Config]) -> None:
    config = small_config(
        optim=AdamwConfig(steps=30, warmup_steps=0, tokens_per_step=64, lr=1e20, min_lr=0)
    )
    with pytest.raises(NonfiniteError) as caught:
        trained(config)
    assert not list(Path(config.output).rglob("model.safetensors"))
    # The message names step and batch; the weights before the step are kept, and are finite.
    found = re.match(r"training stopped before update (\d+): the loss is", str(caught.value))
    assert found is not None
    step = int(found[1])
    blocks = ", ".join(map(str, batches_of(config, plan_run(config).data).blocks(step - 1)))
    assert f"on blocks {blocks} of the training split" in str(caught.value)
    (folder,) = Path(config.output).glob("runs/*/checkpoints")
    state = Checkpoints(folder).newest()
    assert state is not None
    assert state.step == step - 1
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())
    # Started again, it stops at the same step at once.
    with pytest.raises(NonfiniteError, match=f"before update {step}:"):
        trained(config)


def test_no_gpu(small_config: Callable[..., Config]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = small_config(device="cuda")
    with pytest.raises(UserError, match="torch sees no GPU"):
        trained(config)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu(small_config: Callable[..., Config], tmp_path: Path) -> None:
    for position in ("rotary", "t5", "alibi"):
        config = small_config(position, device="cuda")
        on_cpu = replace(config, device="cpu", output=str(tmp_path / "cpu"))
        curves = [read_curve(trained(c).curve) for c in (config, on_cpu)]
        assert curves[0][-1]["loss"] == pytest.approx(curves[1][-1]["loss"], rel=0.01)
