"""Trained weights read by other settings, and lengths that a model refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import evaluated, trained

from alibi_lm.config import Config
from alibi_lm.errors import SettingsError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.evaluation.rows import REFUSED
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES, Sizes
from alibi_lm.positions.alibi import Alibi
from alibi_lm.positions.spec import read_spec
from alibi_lm.report import summary, write_report
from alibi_lm.report.comparisons import comparisons
from alibi_lm.runs.readings import build_reading, reading, readings

SPECS: list[Any] = [
    {},
    {"scaling": "yarn", "factor": 8},
    {"scaling": "yarn", "factor": 8, "attention_factor": 1.5, "truncate": False},
    {"theta": 1e6},
    {"window": 20, "sinks": 4, "temperature": "logn"},
    {"kind": "none"},
    "none",
    {"kind": "none", "window": 7},
    {"kind": "layered", "layers": ["rotary", {"kind": "none", "window": 9}]},
    {"kind": "randomized", "base": {"kind": "rotary", "theta": 5.5}},
    {"kind": "shape", "base": "none"},
    {"kind": "alibi", "slopes": [0.5, 0.25], "inside": True},
    {"kind": "stickbreaking", "remainder": "value"},
    {"kind": "rerope", "near": 20},
    "leaky_rerope",
    "dual_chunk",
    {"kind": "lambda_mask", "first": 3, "theta": 5.5},
    {"temperature": "ssmax_fixed", "temperature_scale": 0.3},
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_words_say_what_was_given(small_config: Callable[..., Config], spec: Any) -> None:
    config = small_config({"kind": "rotary", "window": 30})
    (words,) = readings(config, spec)
    assert reading(config, f"backend=reference {words}") == read_spec(spec, "", config.position)
    assert (words == "") == (spec == {})


def test_words_are_the_same_for_one_meaning(small_config: Callable[..., Config]) -> None:
    config = small_config("rotary")
    same = [{"scaling": "linear", "factor": 2}, {"factor": 2.0, "scaling": "linear"}]
    same += [{"kind": "rotary", "scaling": "linear", "factor": 2, "theta": 10000.0}]
    assert [*readings(config, same)] == ["position.scaling=linear position.factor=2.0"]
    assert [*readings(config, None)] == [*readings(config, {"theta": 10000})] == [""]
    assert [*readings(config, [{}, {"kind": "none"}])] == ["", "position=none"]
    config = small_config({"kind": "layered", "layers": ["rotary", "none"]})
    for layers in (
        [{"kind": "rotary"}, "none"],
        [{"kind": "rotary", "theta": 10000}, {"kind": "none"}],
        ["rotary", "none", "rotary", "none"],
    ):
        assert [*readings(config, {"layers": layers})] == [""]
        assert small_config({"kind": "layered", "layers": layers}) == config
    randomized: Any = read_spec({"kind": "randomized", "base": {"kind": "rotary"}}, "")
    assert randomized.base == "rotary"
    written_out = {"kind": "sinusoidal", "table": "paper"}
    shape: Any = read_spec({"kind": "shape", "base": written_out}, "")
    assert shape.base is None


def test_another_kind_keeps_what_all_schemes_have(small_config: Callable[..., Config]) -> None:
    config = small_config({"kind": "rotary", "window": 30, "theta": 5.0})
    assert reading(config, "position=none").window == 30
    assert [*readings(config, {"kind": "none"})] == ["position=none"]
    assert [*readings(config, {"kind": "none", "window": None})] == [
        "position=none position.window=null"
    ]


def test_a_scheme_of_buffers_is_read_by_its_settings(
    small_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a scheme keeps and does not train follows from the settings, not from the weights."""

    class Kept(Alibi):
        def __init__(self, config: Any, sizes: Sizes) -> None:
            super().__init__(config, sizes)
            self.register_buffer("kept", torch.tensor([config.scale]))

    monkeypatch.setitem(SCHEMES.made, "alibi", Kept)
    config = small_config("alibi")
    trained_scheme = SCHEMES.build(config.position, config.model.sizes(16))
    read: Any = build_reading(config, "position.scale=0.5", trained_scheme)
    assert (trained_scheme.kept.item(), read.kept.item()) == (1.0, 0.5)
    config = small_config("kerple")
    wide = SCHEMES.build(config.position, config.model.sizes(16))
    with torch.no_grad():
        wide.p.fill_(3.0)
        wide.a.fill_(0.5)
    read = build_reading(config, "position.kernel=power", wide)
    assert read.p.max() == 2.0 and read.a.min() == 0.5


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"kind": "t5"}, "parameters are not those of the trained position=rotary"),
        ({"kind": "fox"}, "gates.0.bias is .2,., in the trained not there"),
        ({"temperature": "ssmax"}, "temperature.scales is .1, 2., in the trained not there"),
        ({"kind": "dual_chunk", "size": 2}, "position.size, position.local: 2 and 2 leave chunks"),
        ({"kind": "rerope", "leak": 2.0}, "leak: given 2.0, but it must be at most 1"),
        ({"scaling": "longrope", "factor": 2}, "long_factors: given 0, but 4 pairs are rotated"),
        ({"part": 0.1}, "heads of 8, of which it takes 0, but position=rotary needs an even"),
        ({"scaling": "foo"}, "evaluation.position.scaling: given 'foo', but it must be one of"),
        ({"factor": 3.0}, "position.factor: given 3, but position.scaling is none"),
        (
            {"attention_factor": 2.0},
            "position.attention_factor: given 2.0, but it acts with",
        ),
        (
            {"scaling": "yarn"},
            "position.factor: given 1, which leaves position.scaling=yarn",
        ),
        ({"sinks": 3}, "position.sinks: given 3, but without position.window all are seen"),
        ({"theta": "x"}, "evaluation.position.theta: given x, but it must be a number"),
        ({"kind": ["a"]}, "position '.'a'.' does not exist"),
        ({"window": 0}, "window: given 0, but it must be at least 1"),
        ({"tetha": 3}, "setting 'tetha' does not exist .did you mean theta"),
        ([], "given none; name at least one"),
        (5, "given 5, but it must be a scheme or"),
        ({"kind": "layered", "layers": ["sinusoidal"]}, "which does not act in single layers"),
    ],
)
def test_what_cannot_be_read(small_config: Callable[..., Config], spec: Any, line: str) -> None:
    with pytest.raises(SettingsError, match=line):
        readings(small_config("rotary"), spec)


def test_ways_to_read_a_rotary_model_keep_its_settings(
    small_config: Callable[..., Config],
) -> None:
    config = small_config({"kind": "rotary", "theta": 5e5, "part": 0.5, "window": 30})
    for kind in ("rerope", "self_extend", "dual_chunk", "lambda_mask", "streaming"):
        ((words, position),) = readings(config, kind).items()
        assert words == f"position={kind}"
        assert (position.theta, position.part, position.window) == (5e5, 0.5, 30)  # type: ignore[attr-defined]
    ((words, position),) = readings(config, "alibi").items()
    assert (words, position.window) == ("position=alibi", 30)


def test_each_reading_is_a_row_and_a_curve(
    small_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = trained(small_config("rotary"))
    specs = [{}, {"scaling": "dynamic"}, {"kind": "none"}, {"window": 5, "sinks": 2}]
    results = evaluated(run, EvaluationConfig(lengths=[16, 200], position=specs))
    rows = {(r.row.changes, r.row.eval_length): r.row for r in results}
    words = ["", "position.scaling=dynamic", "position=none", "position.window=5 position.sinks=2"]
    assert list(dict.fromkeys(changes for changes, _ in rows)) == words
    assert len({row.loss for row in rows.values()}) == 7  # at its own length, dynamic is as trained
    assert rows["", 16].loss == rows["position.scaling=dynamic", 16].loss
    assert [rows[w, 200].prefix_consistent for w in words] == [True, False, True, True]
    assert [rows[w, 200].backend for w in words] == ["causal", "causal", "causal", "scored"]
    # What a model with these settings scores, built from them and the weights alone.
    config, text = run.config, run.data.split("validation").stream
    x = torch.from_numpy(text[:200].astype("int64"))[None]
    y = torch.from_numpy(text[1:201].astype("int64"))[None]
    for spec, changes in zip(specs, words, strict=True):
        settings = read_spec(spec, "", config.position)
        net = Decoder(config.model, settings, run.data.vocab_size, config.train_length).eval()
        run.load_weights(net)
        (found,) = (r for r in results if (r.row.changes, r.row.eval_length) == (changes, 200))
        losses = found.losses()
        assert losses is not None
        with torch.no_grad():
            exact = net(x, y)[0].double().numpy()
        assert exact == pytest.approx(losses[:200], abs=1e-5)
    table = summary(results)
    assert "rotary position.scaling=dynamic" in table and "rotary position=none" in table
    assert "depends on the length of the window" in table
    write_report(results, tmp_path / "report")


def test_a_reading_that_all_share_is_named(small_config: Callable[..., Config]) -> None:
    """It is another model, and no claim on the scheme as it is by default."""
    run = trained(small_config("rotary"))
    results = evaluated(run, EvaluationConfig(lengths=[16, 40], position={"window": 5}))
    assert "| rotary position.window=5" in summary(results)
    (curves,) = comparisons(results).values()
    assert [curve.is_plain for curve in curves] == [False]


def test_the_backend_of_a_row_is_that_of_whole_windows(small_config: Callable[..., Config]) -> None:
    """The shorter last batch may do with another, which could not compute the others."""
    run = trained(small_config("none"))
    n = run.data.split("validation").tokens
    length = next(k for k in range(30, 60) if 0 < n % k < 20)
    settings = EvaluationConfig(
        lengths=[length], attention=["window"], window=20, batch_tokens=length
    )
    assert evaluated(run, settings)[0].row.backend == "blocks"


def test_a_window_over_sinks_is_refused(small_config: Callable[..., Config]) -> None:
    run = trained(small_config("rotary"))
    settings = EvaluationConfig(
        lengths=[16], attention=["full", "window"], position=[{}, {"window": 5, "sinks": 2}]
    )
    with pytest.raises(SettingsError, match=r"the scheme has sinks \(2\), which a second window"):
        evaluated(run, settings)


def test_a_number_hangs_on_the_window_alone(small_config: Callable[..., Config]) -> None:
    """Not on which lengths were read before, nor on how windows are batched; of every protocol."""
    run = trained(small_config("rotary"))

    def losses(lengths: list[int], batch_tokens: int) -> dict[Any, float]:
        settings = EvaluationConfig(
            protocols=["nonoverlapping", "sliding", "same_targets"],
            lengths=lengths,
            stride=16,
            targets=20,
            batch_tokens=batch_tokens,
            position=[{"scaling": "dynamic"}, {"kind": "randomized"}],
        )
        for file in (run.path / "results.jsonl", *run.path.glob("losses/*")):
            file.unlink(missing_ok=True)
        rows = [r.row for r in evaluated(run, settings)]
        assert not any(row.prefix_consistent for row in rows)
        return {(r.protocol, r.eval_length, r.changes): r.loss for r in rows}

    wanted = losses([16, 40, 150], 1)
    assert losses([150, 40, 16], 100_000) == pytest.approx(wanted, rel=1e-6)


def test_a_text_that_is_too_long_is_a_row(
    small_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = EvaluationConfig(lengths=[8, 16, 17, 40], attention=["full", "window"], window=4)
    run = trained(small_config("learned"))
    results = evaluated(run, evaluation)
    assert [r.row.status == REFUSED for r in results] == [False, False, True, True] * 2
    refused = results[2]
    assert refused.row.reason == "it has 16 positions"
    assert refused.row.loss != refused.row.loss and refused.losses() is None
    assert (refused.row.backend, refused.row.nonfinite) == ("", 0)
    lines = (run.path / "results.jsonl").read_text()
    evaluated(run, evaluation)
    assert (run.path / "results.jsonl").read_text() == lines  # and is not tried again
    table = summary(results)
    assert "refused" in table
    assert "Learned at 17 and more: refused, it has 16 positions." in table
    write_report(results, tmp_path / "report")
    # Windows that slide over the text in its own length are read.
    sliding = EvaluationConfig(protocols=["sliding"], stride=4, lengths=[16])
    assert evaluated(run, sliding)[0].row.status == "complete"
    only = evaluated(run, replace(evaluation, lengths=[40], attention=["full"]))
    assert "refused" in summary(only)
    write_report(only, tmp_path / "nothing")
