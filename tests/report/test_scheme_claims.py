from dataclasses import replace
from pathlib import Path

import pytest
from samples import bare

from alibi_lm.positions import SCHEMES
from alibi_lm.positions.spec import read_spec
from alibi_lm.report.claims import FAILS, HOLDS, NOT_MEASURED, check_claims
from alibi_lm.report.comparisons import Curve, comparisons
from alibi_lm.report.published import of_other_papers, reading_of
from alibi_lm.report.scheme_claims import RULES, SchemeClaim, find, scheme_claims
from alibi_lm.settings import changed_settings, words


def curves(tmp_path: Path, **ppl: dict[int, float]) -> list[Curve]:
    """Of schemes by their perplexities at lengths, trained at 64."""
    rows = [
        bare(position=name, eval_length=at, ppl=value)
        for name, by_length in ppl.items()
        for at, value in by_length.items()
    ]
    (found,) = comparisons(rows).values()
    return found


def claim(rule: str, against: str = "", up_to: float = 4, changes: str = "") -> SchemeClaim:
    return SchemeClaim("fox", "", changes, rule, against, up_to, "a paper")


@pytest.mark.parametrize(
    ("rule", "fox", "verdicts"),
    [
        ("flat", {64: 20.0, 128: 20.3, 256: 20.39}, [True]),
        ("flat", {64: 20.0, 128: 20.6, 256: 20.0}, [False]),
        ("flat", {64: 20.0, 128: 20.0, 512: 90.0}, [True]),  # beyond what is claimed
        ("flat", {64: 20.0}, []),
        ("flat", {128: 20.0, 256: 20.0}, []),  # not at the training length
        ("flat", {64: 20.0, 256: float("nan")}, [None]),
        ("falls", {64: 20.0, 128: 21.0, 256: 19.9}, [True]),
        ("falls", {64: 20.0, 256: 20.1}, [False]),
        ("falls", {64: 20.0, 512: 19.0}, []),
    ],
)
def test_rules_of_one_curve(
    tmp_path: Path, rule: str, fox: dict[int, float], verdicts: list[bool | None]
) -> None:
    found = find(claim(rule), curves(tmp_path, fox=fox))
    assert [holds for _, holds in found] == verdicts


@pytest.mark.parametrize(
    ("rule", "up_to", "rotary", "verdicts"),
    [
        ("below", 4, {64: 1.0, 256: 20.2}, [True]),
        ("below", 4, {64: 30.0, 256: 20.0}, [False]),
        ("below", 1, {64: 20.5, 256: 1.0}, [True]),
        ("below", 4, {64: 30.0}, []),
        ("steadier", 4, {64: 10.0, 256: 10.2}, [True]),
        ("steadier", 4, {64: 30.0, 256: 30.1}, [False]),
        ("steadier", 4, {64: 30.0, 256: float("nan")}, [None]),
    ],
)
def test_rules_of_two_curves(
    tmp_path: Path, rule: str, up_to: float, rotary: dict[int, float], verdicts: list[bool | None]
) -> None:
    found = find(
        claim(rule, "rotary", up_to), curves(tmp_path, fox={64: 20.0, 256: 20.1}, rotary=rotary)
    )
    assert [holds for _, holds in found] == verdicts
    assert find(claim(rule, "rotary", up_to), curves(tmp_path, fox={64: 20.0, 256: 20.1})) == []


def test_a_reading_is_another_model(tmp_path: Path) -> None:
    changes = "position=rerope position.near=32"
    rows = [
        bare(position="rotary", eval_length=at, ppl=ppl, changes=changed)
        for changed, by_length in (("", {64: 20.0, 256: 30.0}), (changes, {64: 20.0, 256: 19.0}))
        for at, ppl in by_length.items()
    ]
    (found,) = comparisons(rows).values()
    plain = SchemeClaim("rotary", "", "", "falls", "", 4, "")
    assert [holds for _, holds in find(plain, found)] == [False]
    read = replace(plain, changes="position=rerope")
    assert [holds for _, holds in find(read, found)] == [True]
    assert read.words == "Rotary, read as rerope improves up to 4 L."


def test_published_numbers_decide_where_there_are_any(tmp_path: Path) -> None:
    rows = [
        bare(position="cable", variant="weights=True scaled=True", eval_length=at)
        for at in (64, 128)
    ]
    checked = check_claims(comparisons(rows))
    (falls,) = [c for c in checked if c.claim.words == "CABLE, weights improves up to 15 L."]
    assert falls.paper.verdict == HOLDS
    assert "Veisi et al. 2025" in falls.paper.evidence[0]
    assert [ours.verdict for ours in falls.ours.values()] == [FAILS]  # equal at both lengths
    (below,) = [c for c in checked if "CABLE, weights is better than ALiBi" in c.claim.words]
    assert [ours.verdict for ours in below.ours.values()] == [NOT_MEASURED]
    assert "needs" in next(iter(below.ours.values())).evidence[0]
    assert not any("FoX" in c.claim.words for c in checked)  # no rows of it


def test_the_data_name_schemes_and_settings_as_rows_do() -> None:
    named = [(c.position, c.variant, c.changes, c.against) for c in scheme_claims()]
    for theirs in of_other_papers().values():
        named += [(c.position, c.variant, c.changes, "") for c in theirs]
    for position, variant, changes, against in named:
        assert {position, against} <= {*SCHEMES.settings, ""}
        spec = {"kind": position}
        for word in variant.split():
            key, _, value = word.partition("=")
            spec[key] = value
        settings = read_spec(spec, "")
        assert words(changed_settings(settings)) == variant
        for word in changes.split():
            key, _, value = word.partition("=")
            assert key in ("position", "position.scaling")
            assert key != "position" or value in SCHEMES.settings
        assert reading_of(changes) == changes
    assert all(c.rule in RULES and c.source for c in scheme_claims())
