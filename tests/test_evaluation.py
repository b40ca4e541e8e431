"""A toy model with known probabilities, and the protocols against an explicit loop."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alibi_lm.config import Config, EvaluationConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import UserError
from alibi_lm.evaluation import check_lengths, evaluate_run, score, wanted_rows
from alibi_lm.results import metrics
from alibi_lm.training import train_run


def context_sums(inputs: Tensor, targets: Tensor) -> Tensor:
    """A causal toy 'model' whose losses tell the whole context apart."""
    weights = 1.0 + torch.arange(inputs.shape[1])
    return torch.cumsum(inputs * weights, 1) / 1000 + targets / 7


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
def test_agrees_with_a_loop_over_targets(case: tuple[np.ndarray, int, int, int]) -> None:
    stream, length, stride, batch_tokens = case
    n = len(stream) - 1
    total = 0.0
    for target in range(n):
        start = max(0, target // stride * stride + stride - length)
        inputs = torch.from_numpy(stream[start : target + 1].astype(np.int64))[None]
        targets = torch.from_numpy(stream[start + 1 : target + 2].astype(np.int64))[None]
        total += context_sums(inputs, targets)[0, -1].double().item()
    got = score(context_sums, stream, length, stride, batch_tokens)
    assert got.tokens == n
    assert got.nonfinite == 0
    assert got.nll == pytest.approx(total, rel=1e-5)


@given(cases())
@settings(deadline=None)
def test_stride_of_the_length_is_nonoverlapping_to_the_last_digit(
    case: tuple[np.ndarray, int, int, int],
) -> None:
    stream, length, _, batch_tokens = case
    n = len(stream) - 1
    blocks = 0.0
    for start in range(0, n, length):
        block = stream[start : start + length + 1].astype(np.int64)
        losses = context_sums(torch.from_numpy(block[:-1])[None], torch.from_numpy(block[1:])[None])
        blocks += losses.double().sum().item()
    assert score(context_sums, stream, length, length, batch_tokens).nll == pytest.approx(
        blocks, rel=1e-6
    )


def test_known_probabilities_give_hand_computed_metrics() -> None:
    """Eight tokens of probability 1/4 over 3 words and 16 bytes."""
    quarter: Callable[[Tensor, Tensor], Tensor] = lambda x, y: torch.full(y.shape, math.log(4))  # noqa: E731
    result = score(quarter, np.zeros(9, np.uint16), 3, 3, 6)
    values = metrics(result.nll, result.tokens, words=3, n_bytes=16)
    assert values["loss"] == pytest.approx(math.log(4))
    assert values["ppl"] == pytest.approx(4)
    assert values["word_ppl"] == pytest.approx(4 ** (8 / 3))
    assert values["bpb"] == pytest.approx(8 * 2 / 16)


def test_nonfinite_losses_are_counted_not_skipped() -> None:
    def broken(inputs: Tensor, targets: Tensor) -> Tensor:
        losses = torch.ones(targets.shape)
        losses[targets == 3] = math.inf
        losses[targets == 5] = math.nan
        return losses

    result = score(broken, np.arange(9, dtype=np.uint16), 4, 4, 8)
    assert result.tokens == 8
    assert result.nonfinite == 2
    assert math.isnan(result.nll)
    infinite = score(broken, np.array([0, 1, 3]), 2, 2, 8)
    assert metrics(infinite.nll, 2, 2, 2)["ppl"] == math.inf


def test_perplexity_beyond_floats_is_infinite() -> None:
    assert metrics(1e6, 1, 1, 1)["ppl"] == math.inf


def test_wanted_rows_name_the_protocol() -> None:
    assert wanted_rows(EvaluationConfig(lengths=[8, 16, 8], stride=8)) == [
        (8, "sliding", 8, "validation"),
        (16, "sliding", 8, "validation"),
    ]
    assert wanted_rows(EvaluationConfig(lengths=[8, 8])) == [(8, "nonoverlapping", 8, "validation")]


@pytest.mark.parametrize("position", ["t5", "rotary"])
def test_a_run_is_evaluated_once_at_every_length(
    small_config: Callable[..., Config], position: str, tmp_path: object
) -> None:
    config = small_config(position)
    data = prepare(config.data, config.tokenizer, tmp_path)  # type: ignore[arg-type]
    run = train_run(config, data)
    rows = evaluate_run(run, data, config.evaluation, "cpu")
    assert [row.eval_length for row in rows] == [16, 40]
    assert {row.tokens for row in rows} == {data.split("validation").tokens}
    assert all(row.position == position and row.nonfinite == 0 for row in rows)
    assert rows[0].word_ppl == pytest.approx(rows[0].ppl ** (rows[0].tokens / rows[0].words))
    # More lengths add rows; what is there is kept as it is.
    more = evaluate_run(run, data, EvaluationConfig(lengths=[40, 7], stride=None), "cpu")
    assert more[0] == rows[1]
    assert [row.eval_length for row in run.rows()] == [16, 40, 7]
    sliding = evaluate_run(run, data, EvaluationConfig(lengths=[40], stride=10), "cpu")
    assert (sliding[0].protocol, sliding[0].stride) == ("sliding", 10)
    assert sliding[0].tokens == rows[0].tokens


def test_lengths_beyond_the_split(small_config: Callable[..., Config], tmp_path: object) -> None:
    config = small_config()
    data = prepare(config.data, config.tokenizer, tmp_path)  # type: ignore[arg-type]
    n = data.split("validation").tokens
    check_lengths(EvaluationConfig(lengths=[n]), data)
    with pytest.raises(UserError, match=rf"evaluation\.lengths: given {n + 1}, .* has {n} tokens"):
        check_lengths(EvaluationConfig(lengths=[1, n + 1]), data)
    with pytest.raises(UserError, match="has no test split"):
        check_lengths(EvaluationConfig(lengths=[1], split="test"), data)
