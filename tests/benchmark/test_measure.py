from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alibi_lm.benchmark import measure as measure_module
from alibi_lm.benchmark.measure import BenchmarkConfig, benchmark, rise
from alibi_lm.benchmark.rows import read_speeds
from alibi_lm.errors import UserError
from alibi_lm.model.config import ModelConfig

CPU = torch.device("cpu")
SIZES = ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=64)


def config(tmp_path: Path, **changes: object) -> BenchmarkConfig:
    settings = {
        "positions": ["none", "t5", "alibi"],
        "lengths": [16, 48],
        "model": SIZES,
        "vocab_size": 50,
        "tokens": 32,
        "rounds": 2,
        "device": "cpu",
        "output": str(tmp_path / "out"),
    }
    made = BenchmarkConfig(**(settings | changes))  # type: ignore[arg-type]
    assert made.problems() == []
    return made


def test_rows(tmp_path: Path) -> None:
    rows = benchmark(config(tmp_path))
    assert [(row.length, row.phase, row.position) for row in rows] == [
        (length, phase, position)
        for length in (16, 48)
        for phase in ("training", "evaluation")
        for position in ("none", "t5", "alibi")
    ]
    assert {row.position: row.backend for row in rows} == {
        "none": "causal",
        "t5": "blocks",
        "alibi": "row",
    }
    for row in rows:
        assert row.tokens == (32 if row.length == 16 else 48)
        assert row.seconds and row.tokens_per_second and row.peak_memory_bytes
        assert row.tokens_per_second == pytest.approx(row.tokens / row.seconds)
        assert row.share == pytest.approx(row.flops_per_second / row.limit_flops_per_second)
        assert row.time_ratio_to_ours is None
        assert (row.position == "none") <= (row.time_ratio == 1.0 == row.memory_ratio)
        assert row.first_step_seconds
    assert read_speeds(tmp_path / "out") == rows
    by_phase = {row.phase: row for row in rows if (row.length, row.position) == (48, "alibi")}
    training, evaluation = by_phase["training"], by_phase["evaluation"]
    assert training.peak_memory_bytes > evaluation.peak_memory_bytes  # gradients, Adam's state
    weights = 4 * training.n_parameters
    assert training.peak_memory_bytes > 4 * weights


def test_peers_stand_beside_ours(tmp_path: Path) -> None:
    rows = benchmark(
        config(
            tmp_path,
            positions=["none", "sinusoidal", "rotary", "t5", "alibi"],
            lengths=[24],
            peers=["x-transformers", "transformers"],
            rounds=1,
        )
    )
    theirs = [(row.library, row.position) for row in rows if row.phase == "training"]
    assert [pair for pair in theirs if pair[0] == "transformers"] == [
        ("transformers", "rotary"),
        ("transformers", "alibi"),
    ]
    assert len([pair for pair in theirs if pair[0] == "x-transformers"]) == 5
    ours = {(row.position, row.phase): row for row in rows if row.library == "alibi_lm"}
    for row in rows:
        if row.library != "alibi_lm":
            same = ours[row.position, row.phase]
            # One round: the ratio of medians is that of the round.
            assert row.time_ratio_to_ours == pytest.approx(row.seconds / same.seconds)
            assert row.n_parameters == pytest.approx(same.n_parameters, rel=0.06)
            assert row.version[0].isdigit()


def test_memory_is_counted_to_the_byte() -> None:
    kept = []

    def action() -> None:
        first = torch.empty(1000, 1000)
        second = torch.empty(500, 1000)
        del first
        kept.append(torch.empty(250, 1000))
        del second

    assert rise(action, CPU) == 4 * 1_500_000


def test_a_bias_holds_no_matrix(tmp_path: Path) -> None:
    """Of the matrix, T5's training holds the rows of a few blocks, the others nothing."""
    model = ModelConfig(n_layers=1, n_heads=4, d_model=64, d_ff=256)
    matrix = 4 * 4 * 2048 * 2048  # bytes
    rows = benchmark(config(tmp_path, lengths=[2048], model=model, tokens=2048, rounds=1))
    peak = {(row.phase, row.position): row.peak_memory_bytes or 0 for row in rows}
    assert peak["training", "t5"] - peak["training", "none"] < matrix / 10
    assert peak["training", "alibi"] < 1.02 * peak["training", "none"]
    for position in ("t5", "alibi"):
        assert peak["evaluation", position] < 1.02 * peak["evaluation", "none"]
    forced = benchmark(
        config(
            tmp_path,
            positions=["none"],
            lengths=[2048],
            phases=["evaluation"],
            model=model,
            tokens=2048,
            rounds=1,
            backend="reference",
        )
    )
    assert (forced[0].peak_memory_bytes or 0) > matrix


def test_where_memory_runs_out_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = measure_module.Decoder.forward

    def limited(
        self: torch.nn.Module, x: torch.Tensor, *rest: object, **more: object
    ) -> torch.Tensor:
        if self.position.__class__.__name__ == "T5Bias" and x.shape[1] > 16:
            torch.empty(1 << 60)  # no machine has it: the allocator's own error
        return forward(self, x, *rest, **more)

    monkeypatch.setattr(measure_module.Decoder, "forward", limited)
    rows = benchmark(config(tmp_path))
    failed = [(row.position, row.length, row.phase) for row in rows if not row.is_complete]
    assert failed == [("t5", 48, "training"), ("t5", 48, "evaluation")]
    assert all(row.tokens_per_second is None for row in rows if not row.is_complete)
    assert read_speeds(tmp_path / "out") == rows


def test_where_models_do_not_fit_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "build_optimizer", lambda *_: torch.empty(1 << 60))
    with pytest.raises(UserError, match="memory ran out while their models were built"):
        benchmark(config(tmp_path))


def test_checkpointing_takes_less_memory(tmp_path: Path) -> None:
    def peak(**changes: object) -> int:
        model = ModelConfig(n_layers=6, n_heads=2, d_model=32, d_ff=128)
        (row,) = benchmark(
            config(
                tmp_path,
                positions=["alibi"],
                lengths=[256],
                phases=["training"],
                model=model,
                tokens=1024,
                rounds=1,
                **changes,
            )
        )
        assert row.peak_memory_bytes
        return row.peak_memory_bytes

    assert peak(checkpointing=True) < 0.6 * peak()


def test_what_cannot_be_measured_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(words: str, **changes: object) -> None:
        with pytest.raises(UserError, match=words):
            benchmark(config(tmp_path, **changes))
        assert not (tmp_path / "out").exists()

    refused("backend: given row, but row computes a bias by key", backend="row")
    refused("flex has no gradients on a CPU", backend="flex")
    wide = ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=32)
    both = {"positions": ["alibi"], "peers": ["transformers"]}
    refused("4 x d_model wide; model.d_ff is 32", model=wide, **both)
    drop = ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=64, dropout=0.1)
    refused("have no dropout; set model.dropout to 0", model=drop, **both)
    refused("which has none of none, t5", peers=["transformers"], positions=["none", "t5"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("not installed; pip install -r requirements-peers.txt", peers=["x-transformers"])


def test_settings_that_cannot_be() -> None:
    def problems(make: Callable[[], BenchmarkConfig]) -> str:
        return "\n".join(make().problems())

    assert "lengths: given none" in problems(lambda: BenchmarkConfig(lengths=[]))
    assert "each only once" in problems(lambda: BenchmarkConfig(positions=["t5", "t5"]))
    assert "peers are measured without" in problems(
        lambda: BenchmarkConfig(compile=True, peers=["transformers"])
    )
    assert "rounds: given 0" in problems(lambda: BenchmarkConfig(rounds=0))
    assert "even head size" in problems(
        lambda: BenchmarkConfig(model=ModelConfig(d_model=12, n_heads=4))
    )
