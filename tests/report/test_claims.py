"""Every claim on results that are made to fulfil it, and on results that are made not to."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from samples import ROW, SPEED, result

from alibi_lm.evaluation.rows import Result
from alibi_lm.report.claims import CLAIMS, FAILS, HOLDS, NOT_MEASURED, check_claims, claims_table
from alibi_lm.report.comparisons import comparisons, titles

HOLDS_UP, SHORTER, ORDER, SPEED_CLAIM, EARLY, RISES, WINDOW = range(len(CLAIMS))


def verdicts(results: list[Result]) -> list[str]:
    found = []
    for checked in check_claims(comparisons(results)):
        (ours,) = checked.ours.values()
        found.append(ours.verdict)
    return found


def blocks(
    folder: Path, position: str, rise: float, train_length: int = 16, seeds: tuple[int, ...] = (0,)
) -> list[Result]:
    """Nonoverlapping up to 16 L; past the training length a token costs `rise` more."""
    loss_of: Callable[[int], float] = lambda context: 3 + rise * (context > train_length)  # noqa: E731
    return [
        result(
            folder,
            loss_of,
            position=position,
            train_length=train_length,
            eval_length=k * train_length,
            stride=k * train_length,
            seed=seed,
        )
        for k in (1, 2, 16)
        for seed in seeds
    ]


def test_seeds_must_agree_and_be_the_same(tmp_path: Path) -> None:
    others = blocks(tmp_path, "sinusoidal", 0.5, seeds=(0, 1, 2))
    others += blocks(tmp_path, "rotary", 0.5, seeds=(0, 1, 2))

    def alibi(*rises: float, far: tuple[int, ...] = (0, 1, 2)) -> list[Result]:
        by_seed = [blocks(tmp_path, "alibi", rise, seeds=(i,)) for i, rise in enumerate(rises)]
        made = [result for of_seed in by_seed for result in of_seed]
        return [r for r in made if r.row.eval_length < 256 or r.row.seed in far]

    assert verdicts(others + alibi(-0.1, -0.1, -0.1))[HOLDS_UP] == HOLDS
    # One seed of three that rises decides, though their mean does not.
    assert verdicts(others + alibi(-0.1, -0.1, 0.1))[HOLDS_UP] == FAILS
    # A seed that was evaluated at the far length alone is compared with itself alone.
    assert verdicts(others + alibi(0.1, -0.1, -0.1, far=(0,)))[HOLDS_UP] == FAILS


@pytest.mark.parametrize(
    ("position", "loss", "verdict"),
    [
        ("alibi", math.inf, FAILS),
        ("alibi", math.nan, NOT_MEASURED),
        ("rotary", math.inf, HOLDS),
        ("rotary", math.nan, NOT_MEASURED),
    ],
)
def test_losses_that_are_not_finite(
    tmp_path: Path, position: str, loss: float, verdict: str
) -> None:
    """An infinite loss has risen; a loss that is no number decides nothing."""
    rises = {"alibi": -0.1, "sinusoidal": 0.5, "rotary": 0.5}
    made = [r for name, rise in rises.items() for r in blocks(tmp_path, name, rise)]
    broken = result(
        tmp_path,
        lambda context: loss if context == 200 else 3.0,
        position=position,
        train_length=16,
        eval_length=256,
        stride=256,
    )
    assert verdicts([*made, broken])[HOLDS_UP] == verdict


def test_without_a_gain_nothing_is_explained(tmp_path: Path) -> None:
    made = blocks(tmp_path, "alibi", 0.0)
    made += [
        result(tmp_path, lambda c: 3.0, train_length=16, eval_length=length, protocol="sliding",
               stride=1)
        for length in (16, 256)
    ]  # fmt: skip
    assert verdicts(made)[EARLY] == NOT_MEASURED


def test_the_largest_sample_speaks(tmp_path: Path) -> None:
    made = [
        result(
            tmp_path,
            lambda context, rise=rise: 3 + rise * (context > 64),
            eval_length=length,
            protocol="same_targets",
            stride=None,
            tokens=tokens,
        )
        for tokens, rise in ((200, 0.1), (100, -0.1))
        for length in (64, 256)
    ]
    assert verdicts(made)[RISES] == verdicts(made[::-1])[RISES] == HOLDS


@pytest.mark.parametrize(
    ("time", "memory", "verdict"), [(1.01, 1.005, HOLDS), (1.03, 1.0, FAILS), (1.0, 1.02, FAILS)]
)
def test_speed(time: float, memory: float, verdict: str) -> None:
    """alibi takes `time` and `memory` of sinusoidal's at one length, and the same at another."""
    bytes_ = {"sinusoidal": 10**8, "alibi": int(memory * 10**8)}
    rows = [
        replace(
            SPEED,
            position=position,
            length=length,
            time_ratio=1.1 * (time if (position, length) == ("alibi", 512) else 1.0),
            peak_memory_bytes=bytes_[position] if length == 512 else 10**8,
        )
        for position in ("sinusoidal", "alibi")
        for length in (512, 1024)
    ]
    others = [
        replace(SPEED, position="alibi", length=512, time_ratio=9.0, library="x-transformers"),
        replace(SPEED, position="alibi", length=512, time_ratio=9.0, phase="evaluation"),
        replace(SPEED, position="alibi", length=4096),  # sinusoidal was not measured there
    ]
    checked = check_claims(comparisons([Result(ROW)]), [*rows, *others])[SPEED_CLAIM]
    (ours,) = checked.ours.values()
    assert ours.verdict == verdict
    assert len(ours.evidence) == 2
    assert f"L = 512: speed {1 / time:.3f}, memory {memory:.3f}" in ours.evidence[0]


def test_nothing_measured() -> None:
    assert verdicts([Result(ROW)]) == [NOT_MEASURED] * len(CLAIMS)


def test_the_papers_numbers_fulfil_the_papers_claims() -> None:
    papers = [checked.paper for checked in check_claims(comparisons([Result(ROW)]))]
    assert [finding.verdict for finding in papers] == [HOLDS] * 5 + [NOT_MEASURED] * 2
    assert (
        "L = 1,024, rise to 12,024: rotary 4.527, T5 1.774, ALiBi 0.965" in papers[ORDER].evidence
    )
    assert "L = 512: speed 0.993, memory 1.000 of sinusoidal's" in papers[SPEED_CLAIM].evidence
    assert any("512 at 3,072 / sinusoidal L = 3,072: 0.986" in e for e in papers[SHORTER].evidence)


@pytest.mark.parametrize(
    ("alibi", "sinusoidal", "rotary", "verdict"),
    [(-0.1, 0.5, 0.3, HOLDS), (0.1, 0.5, 0.3, FAILS), (-0.1, 0.5, 0.0, FAILS)],
)
def test_holding_up(
    tmp_path: Path, alibi: float, sinusoidal: float, rotary: float, verdict: str
) -> None:
    made = blocks(tmp_path, "alibi", alibi, seeds=(0, 1)) + blocks(
        tmp_path, "sinusoidal", sinusoidal
    )
    assert verdicts(made)[HOLDS_UP] == NOT_MEASURED
    assert verdicts(made + blocks(tmp_path, "rotary", rotary))[HOLDS_UP] == verdict


@pytest.mark.parametrize(
    ("alibi", "t5", "rotary", "verdict"),
    [(-0.1, 0.2, 0.4, HOLDS), (-0.1, 0.4, 0.2, FAILS), (0.3, 0.2, 0.4, FAILS)],
)
def test_order(tmp_path: Path, alibi: float, t5: float, rotary: float, verdict: str) -> None:
    made = blocks(tmp_path, "alibi", alibi) + blocks(tmp_path, "t5", t5)
    assert verdicts(made)[ORDER] == NOT_MEASURED
    assert verdicts(made + blocks(tmp_path, "rotary", rotary))[ORDER] == verdict


@pytest.mark.parametrize(("rise", "verdict"), [(-0.2, HOLDS), (0.2, FAILS)])
def test_a_shorter_training_length(tmp_path: Path, rise: float, verdict: str) -> None:
    made = blocks(tmp_path, "alibi", rise, 16) + blocks(tmp_path, "sinusoidal", 0.0, 32)
    assert verdicts(made)[SHORTER] == verdict


@pytest.mark.parametrize(("slide", "verdict"), [(0.0, HOLDS), (-0.3, FAILS)])
def test_early_tokens(tmp_path: Path, slide: float, verdict: str) -> None:
    """Blocks gain 0.4 nats or so; with stride 1 the model gains all of it or nothing."""
    made = blocks(tmp_path, "alibi", -0.4)
    for length in (16, 256):
        made.append(
            result(
                tmp_path,
                lambda context: 3 + slide * (context > 16),
                train_length=16,
                eval_length=length,
                protocol="sliding",
                stride=1,
            )
        )
    assert verdicts(made)[EARLY] == verdict


@pytest.mark.parametrize(("rise", "verdict"), [(0.1, HOLDS), (-0.1, FAILS), (0.0, FAILS)])
def test_rising_past_the_training_length(tmp_path: Path, rise: float, verdict: str) -> None:
    made = [
        result(
            tmp_path,
            lambda context: 3 + rise * (context > 64),
            eval_length=length,
            protocol="same_targets",
            stride=None,
            tokens=200,
        )
        for length in (64, 256)
    ]
    assert verdicts(made)[RISES] == verdict


@pytest.mark.parametrize(("gain", "verdict"), [(-0.1, HOLDS), (0.1, FAILS), (0.0, FAILS)])
def test_against_its_own_window(tmp_path: Path, gain: float, verdict: str) -> None:
    made = blocks(tmp_path, "alibi", gain, train_length=64)
    limited = result(
        tmp_path, lambda c: 3.0, train_length=64, eval_length=1024, stride=1024, window=64
    )
    assert verdicts(made)[WINDOW] == NOT_MEASURED
    assert verdicts([*made, limited])[WINDOW] == verdict


def test_windows_and_variants_are_other_models(tmp_path: Path) -> None:
    made = [
        result(tmp_path, lambda c: 3.0, eval_length=length, protocol="same_targets", stride=None,
               tokens=50, window=64)
        for length in (64, 256)
    ]  # fmt: skip
    assert verdicts(made)[RISES] == NOT_MEASURED


def test_one_scheme_in_another_precision_is_another_model(tmp_path: Path) -> None:
    exact = [*blocks(tmp_path, "sinusoidal", 0.5), *blocks(tmp_path, "rotary", 0.5)]
    exact += blocks(tmp_path, "alibi", 0.5)
    better = blocks(tmp_path / "rounded", "alibi", -0.1)
    rounded = [replace(r, row=replace(r.row, dtype="bfloat16")) for r in better]
    assert verdicts([*exact, *rounded]) == verdicts(exact)
    # What is the same for all is no difference between them.
    forced = [replace(r, row=replace(r.row, changes="backend=blocks")) for r in exact]
    assert verdicts(forced) == verdicts(exact)


def test_table_states_claim_rule_and_both_findings(tmp_path: Path) -> None:
    groups = comparisons(blocks(tmp_path, "alibi", -0.1))
    named = titles(group.study for group in groups)
    table = claims_table(check_claims(groups), named)
    assert table.head == ["claim", "rule", "published", "data", "here"]
    assert len(table.body) == len(CLAIMS)
    assert all(cell for line in table.body for cell in line)
