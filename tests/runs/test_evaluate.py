"""A toy model with known probabilities, and the protocols against explicit loops."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import evaluated, trained
from torch import Tensor

from alibi_lm.config import Config
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import (
    EvaluationConfig,
    Measurement,
    Nonoverlapping,
    Protocol,
    SameTargets,
    Sliding,
    measurements,
)
from alibi_lm.evaluation.rows import Result, metrics
from alibi_lm.evaluation.score import score
from alibi_lm.evaluation.spans import same_targets
from alibi_lm.model.config import ModelConfig
from alibi_lm.runs.evaluate import evaluate_run
from alibi_lm.runs.plan import plan_evaluation, plan_run
from alibi_lm.runs.train import build_model
from alibi_lm.training.checkpoint import load_weights, pack_weights


def context_sums(inputs: Tensor, targets: Tensor) -> Tensor:
    """A causal toy 'model' whose losses tell the whole context apart."""
    weights = 1.0 + torch.arange(inputs.shape[1])
    return torch.cumsum(inputs * weights, 1) / 1000 + targets / 7


def alone(stream: np.ndarray, start: int, target: int) -> float:
    """The toy's loss of one target with the context from `start` on, by a pass of its own."""
    inputs = torch.from_numpy(stream[start : target + 1].astype(np.int64))[None]
    targets = torch.from_numpy(stream[start + 1 : target + 2].astype(np.int64))[None]
    return context_sums(inputs, targets)[0, -1].item()


def blocks(length: int) -> Protocol:
    return Nonoverlapping(length, stride=length)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    n = draw(st.integers(1, 120))
    length = draw(st.integers(1, 30))
    stream = draw(st.lists(st.integers(0, 50), min_size=n + 1, max_size=n + 1))
    return (
        np.array(stream, np.uint16),
        length,
        draw(st.integers(1, length)),
        draw(st.integers(1, 100)),
    )


@given(cases())
@settings(deadline=None)
def test_sliding_agrees_with_a_loop_over_targets(case: tuple[np.ndarray, int, int, int]) -> None:
    stream, length, stride, batch_tokens = case
    starts = [
        max(0, target // stride * stride + stride - length) for target in range(len(stream) - 1)
    ]
    wanted = [alone(stream, start, target) for target, start in enumerate(starts)]
    protocol = Sliding(length, stride=stride)
    got = score(context_sums, stream, protocol, batch_tokens)
    assert got == pytest.approx(wanted, rel=1e-5)


@given(cases())
@settings(deadline=None)
def test_stride_of_the_length_is_nonoverlapping_to_the_last_digit(
    case: tuple[np.ndarray, int, int, int],
) -> None:
    stream, length, _, batch_tokens = case
    n = len(stream) - 1
    by_hand: list[float] = []
    for start in range(0, n, length):
        block = stream[start : start + length + 1].astype(np.int64)
        losses = context_sums(torch.from_numpy(block[:-1])[None], torch.from_numpy(block[1:])[None])
        by_hand += losses[0].tolist()
    sliding = Sliding(length, stride=length)
    got = score(context_sums, stream, sliding, batch_tokens)
    assert (got == score(context_sums, stream, blocks(length), batch_tokens)).all()
    assert got == pytest.approx(by_hand, rel=1e-6)


@given(cases(), st.data())
@settings(deadline=None)
def test_same_targets_agrees_with_a_loop(
    case: tuple[np.ndarray, int, int, int], data: st.DataObject
) -> None:
    stream, _, _, batch_tokens = case
    n = len(stream) - 1
    if n < 4:
        return
    sample = data.draw(st.integers(1, n - n // 2))
    context = data.draw(st.integers(1, n // 2))
    protocol = SameTargets(context, sample=sample)
    targets = same_targets(n, 1, sample)[:, 1].tolist()
    wanted = [alone(stream, target + 1 - context, target) for target in targets]
    got = score(context_sums, stream, protocol, batch_tokens)
    assert got == pytest.approx(wanted, rel=1e-5)


def test_known_probabilities_give_hand_computed_metrics() -> None:
    """Eight tokens of probability 1/4 over 3 words and 16 bytes."""
    quarter: Callable[[Tensor, Tensor], Tensor] = lambda x, y: torch.full(y.shape, math.log(4))  # noqa: E731
    losses = score(quarter, np.zeros(9, np.uint16), blocks(3), 6)
    values = metrics(float(losses.mean()), 8, words=3, n_bytes=16)
    assert values.loss == pytest.approx(math.log(4))
    assert values.ppl == pytest.approx(4)
    assert values.word_ppl == pytest.approx(4 ** (8 / 3))
    assert values.bpb == pytest.approx(8 * 2 / 16)


def test_perplexity_beyond_floats_is_infinite() -> None:
    assert metrics(1e6, 1, 1, 1).ppl == math.inf


def test_protocols_that_settings_ask_for() -> None:
    evaluation = EvaluationConfig(
        protocols=["sliding", "same_targets"],
        lengths=[8, 16, 8],
        stride=4,
        targets=5,
        attention=["full", "window"],
    )
    wanted = measurements(evaluation, train_length=6, text="d", dtype="float32")
    assert wanted == [
        Measurement(protocol, "validation", "d", "float32", window)
        for kind in (
            [Sliding(8, stride=4), Sliding(16, stride=4)],
            [SameTargets(8, sample=5), SameTargets(16, sample=5)],
        )
        for window in (None, 6)
        for protocol in kind
    ]
    (one,) = measurements(EvaluationConfig(lengths=[8, 8]), 6, "d", "float32")
    assert one.protocol == blocks(8)


def at(found: list[Result], protocol: Protocol, window: int | None = None) -> Result:
    """The one of that protocol and window."""
    (result,) = (
        result
        for result in found
        if result.row.measurement.protocol == protocol and result.row.window == window
    )
    return result


@pytest.mark.parametrize("position", ["t5", "rotary", "alibi"])
def test_a_run_is_evaluated_once_in_every_way(
    small_config: Callable[..., Config], position: str, tmp_path: Path
) -> None:
    run = trained(small_config(position))
    n = run.data.split("validation").tokens
    rows = [result.row for result in evaluated(run)]
    assert [row.eval_length for row in rows] == [16, 40]
    assert {row.tokens for row in rows} == {n}
    assert all(row.position == position and row.nonfinite == 0 for row in rows)
    assert all(row.identity == run.identity.hash for row in rows)
    assert rows[0].word_ppl == pytest.approx(rows[0].ppl ** (rows[0].tokens / rows[0].words))
    # More lengths add rows; what is there is kept as it is.
    more = evaluated(run, EvaluationConfig(lengths=[40, 7]))
    assert more[0].row == rows[1]
    assert [what.protocol.length for what in run.results()] == [16, 40, 7]
    every = EvaluationConfig(
        protocols=["nonoverlapping", "sliding", "same_targets"],
        lengths=[16, 40],
        stride=16,
        targets=20,
        attention=["full", "window"],
    )
    found = evaluated(run, every)
    assert len({result.row.measurement for result in found}) == 12
    for result in found:
        what, losses = result.row.measurement, result.losses()
        assert losses is not None  # a UserError if they were not the row's
        assert len(losses) == result.row.tokens == (20 if what.protocol.sample else n)
        limited = what.window is not None and what.window < what.protocol.length
        plain_backend = {"t5": "blocks", "rotary": "causal", "alibi": "row"}[position]
        assert result.row.backend == ("blocks" if limited else plain_backend)
    # At the training length a window of it hides nothing; beyond, it does.
    plain, windowed, longer, limited = (
        at(found, blocks(length), window)
        for length, window in ((16, None), (16, 16), (40, None), (40, 16))
    )
    assert windowed.row.loss == plain.row.loss
    assert limited.row.loss != longer.row.loss
    # Sliding by the length itself is nonoverlapping.
    assert at(found, Sliding(16, stride=16)).row.loss == plain.row.loss


def test_a_forced_backend_is_used_and_is_another_measurement(
    small_config: Callable[..., Config],
) -> None:
    run = trained(small_config("alibi"))
    wanted = [result.row for result in evaluated(run)]
    for backend in ("coordinates", "blocks", "flex", "reference"):
        rows = [result.row for result in evaluated(run, backend=backend)]
        assert {(row.backend, row.changes) for row in rows} == {(backend, f"backend={backend}")}
        assert [row.loss for row in rows] == pytest.approx([r.loss for r in wanted], rel=1e-5)
    # They stand beside each other: nothing is computed again.
    assert [result.row for result in evaluated(run)] == wanted
    assert len(run.results()) == 10
    windowed = EvaluationConfig(lengths=[16, 40], attention=["full", "window"])
    with pytest.raises(UserError, match="backend: given row, but row cannot compute a window"):
        evaluated(run, windowed, "row")


def test_rows_of_two_dtypes_stand_beside_each_other(small_config: Callable[..., Config]) -> None:
    run = trained(small_config("t5"))
    exact = evaluated(run, EvaluationConfig(lengths=[16]))
    rounded = evaluated(run, EvaluationConfig(lengths=[16], dtype="bfloat16"))
    assert [result.row.dtype for result in run.results().values()] == ["float32", "bfloat16"]
    assert exact[0].row.loss != rounded[0].row.loss
    assert exact[0].losses_file != rounded[0].losses_file
    assert [r.row for r in evaluated(run, EvaluationConfig(lengths=[16]))] == [exact[0].row]
    losses = [result.losses() for result in (*exact, *rounded)]  # each is that of its row
    assert all(found is not None for found in losses)


def test_each_split_has_its_own_rows(small_config: Callable[..., Config]) -> None:
    run = trained(small_config("none"))
    plans = [
        plan_evaluation(run, EvaluationConfig(lengths=[16], split=split), "cpu", "auto")
        for split in ("validation", "train")
    ]
    found = evaluate_run(run, [m for plan in plans for m in plan.wanted])
    assert [result.row.tokens for result in found] == [
        run.data.split(split).tokens for split in ("validation", "train")
    ]


def test_same_targets_of_a_model_are_read_with_that_context_alone(
    small_config: Callable[..., Config],
) -> None:
    run = trained(small_config("rotary"))
    stream = run.data.split("validation").stream
    for result in evaluated(
        run, EvaluationConfig(protocols=["same_targets"], lengths=[5, 30], targets=12)
    ):
        model = build_model(run, None, "auto").eval()
        load_weights(model, run.weights)
        wanted = []
        for start, _, stop in same_targets(len(stream) - 1, result.row.eval_length, 12):
            piece = torch.from_numpy(stream[start : stop + 1].astype(np.int64))[None]
            with torch.no_grad():
                wanted.append(model(piece[:, :-1], piece[:, 1:])[0, -1].item())
        assert result.losses() == pytest.approx(wanted, rel=1e-4)


def test_nonfinite_losses_are_counted_not_skipped(small_config: Callable[..., Config]) -> None:
    """A model with one broken embedding: every window that holds it is spoilt."""
    run = trained(small_config("none"))
    stream = run.data.split("validation").stream
    rare = int(np.bincount(stream[1:], minlength=run.data.vocab_size).argmin())
    model = build_model(run, None, "auto")
    load_weights(model, run.weights)
    with torch.no_grad():
        model.embedding.weight[rare] = math.inf
    run.finish(pack_weights(model))
    (result,) = evaluated(run, EvaluationConfig(lengths=[8]))
    losses = result.losses()
    assert losses is not None
    assert result.row.nonfinite == (~np.isfinite(losses)).sum() > 0
    assert not math.isfinite(result.row.loss)
    assert result.row.status == "complete"


def test_lengths_beyond_the_split(small_config: Callable[..., Config]) -> None:
    run = plan_run(small_config())
    n = run.data.split("validation").tokens

    def check(**settings: Any) -> None:
        plan_evaluation(run, EvaluationConfig(**settings))

    check(lengths=[n])
    with pytest.raises(UserError, match=rf"evaluation\.lengths: given {n + 1}, .* has {n} tokens"):
        check(lengths=[1, n + 1])
    with pytest.raises(UserError, match=rf"same_targets draws .* leaves {n // 2} tokens"):
        check(protocols=["same_targets"], lengths=[n])
    with pytest.raises(UserError, match=rf"evaluation\.targets: given {n}"):
        check(protocols=["same_targets"], lengths=[1], targets=n)
    with pytest.raises(UserError, match="has no test split"):
        check(lengths=[1], split="test")


MEMORY = """
import resource, sys, torch
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES

settings = ModelConfig(n_layers=1, n_heads=8, d_model=128, d_ff=512)
model = Decoder(settings, SCHEMES.settings["t5"](), vocab_size=50_000, train_length=64).eval()
tokens = torch.randint(50_000, (1, 16_385))
with torch.inference_mode():
    losses = model(tokens[:, :-1], tokens[:, 1:])
assert losses.isfinite().all() and losses.shape == (1, 16_384)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_length_16384_with_50000_words_stays_below_4_gib() -> None:
    """The whole T5 bias would be 8 GiB, the logits 3: neither is ever held."""
    found = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 4 * 2**30


def test_where_memory_runs_out_the_row_says_so_and_the_others_are_there(
    small_config: Callable[..., Config], text_file: Path, tmp_path: Path
) -> None:
    """A real process whose data may grow by 280 MB: two lengths fit, one does not.

    A process may grow by up to 200 MB whatever it evaluates (modules, threads, arenas). The inner
    layer of 12,000 tokens takes 390 MB, twice.
    """
    long = tmp_path / "long.txt"
    long.write_text(text_file.read_text() * 8)
    config = small_config(
        "alibi",
        data=TextConfig(train=[str(long)], held_out=0.5),
        model=ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=8192),
    )
    run = trained(config)
    # The limit is set once torch is loaded, by the same call that a shell's `ulimit -d` makes.
    code = (
        "import resource, runpy, sys, torch, pandas, alibi_lm.runs.sweep\n"
        "held = int(next(line for line in open('/proc/self/status') if line.startswith('VmData'))"
        ".split()[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (held + 280 * 2**20, -1))\n"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        f"sys.argv = ['evaluate', 'run={run.path}', 'evaluation.lengths=[16,12000,40]',"
        " 'evaluation.batch_tokens=16', 'device=cpu']\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'evaluate.py')!r}, run_name='__main__')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "out of memory" in found.stdout
    rows = [result.row for result in run.results().values()]
    assert [(row.eval_length, row.status) for row in rows] == [
        (16, "complete"),
        (12000, "out of memory"),
        (40, "complete"),
    ]
    assert math.isnan(rows[1].loss)
    assert "OOM" in found.stdout
    # With memory enough it is tried again, and replaced.
    (again,) = evaluated(run, EvaluationConfig(lengths=[12000]))
    assert again.row.status == "complete"
    assert len(run.results()) == 3
