"""What each scheme's paper says of longer texts, as data, and the rules that check it.

experiments/published/claims.csv has a line for each claim: the scheme (with what was changed of it,
or how it was read), the rule, the scheme that it is compared with, how many times the training
length it reaches, and the source. Lengths count up to that; of those that are missing nothing is
said. Like all claims they are checked on published numbers, where there are any, and on ours.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from alibi_lm.report.comparisons import Curve
from alibi_lm.report.differences import Difference, compare
from alibi_lm.report.legend import title
from alibi_lm.report.published import EXPERIMENTS, reading_of

FLAT = 1.02  # a perplexity that rises by less still counts as holding up
PROTOCOL = "nonoverlapping"


@dataclass(frozen=True)
class SchemeClaim:
    """A line of the file."""

    position: str
    variant: str
    changes: str
    rule: str
    against: str
    up_to: float
    source: str

    @property
    def name(self) -> str:
        """The scheme for readers."""
        return Curve(self.position, 0, self.variant, changes=self.changes).name

    @property
    def words(self) -> str:
        """The claim as a sentence."""
        words = RULES[self.rule].words
        return words.format(self.name, against=title(self.against), up_to=f"{self.up_to:g} L")


Found = tuple[str, bool | None]  # a line, and whether it holds; None where it decides nothing


@dataclass(frozen=True)
class Rule:
    """How a claim of a kind is said and checked."""

    words: str
    decides: str
    check: Callable[[SchemeClaim, Curve, Curve | None], Found | None]


def find(claim: SchemeClaim, curves: Sequence[Curve]) -> list[Found]:
    """What the claim's rule finds at each training length of these curves."""
    found = []
    for curve in curves:
        if not _is(curve, claim.position, claim.variant, claim.changes):
            continue
        same = (c for c in curves if c.train_length == curve.train_length)
        other = next((c for c in same if _is(c, claim.against)), None)
        if (claim.against and other is None) or curve.train_length not in curve.points:
            continue
        line = RULES[claim.rule].check(claim, curve, other)
        if line is not None:
            found.append((f"L = {curve.train_length:,}, {line[0]}", line[1]))
    return found


def _is(curve: Curve, position: str, variant: str = "", changes: str = "") -> bool:
    read = reading_of(curve.changes) == changes
    return (curve.position, curve.variant) == (position, variant) and read and not curve.window


def _beyond(claim: SchemeClaim, curve: Curve) -> list[int]:
    """The lengths above the training length that the claim is about."""
    length = curve.train_length
    return [at for at in curve.lengths if length < at <= claim.up_to * length * 1.001]


def _decided(difference: Difference, holds: bool) -> bool | None:
    broken = math.isnan(difference.low) or math.isnan(difference.high)
    return None if broken else holds


def _flat(claim: SchemeClaim, curve: Curve, other: Curve | None) -> Found | None:
    steps = [compare(curve, at, curve, curve.train_length) for at in _beyond(claim, curve)]
    known = [step for step in steps if step is not None]
    if not known:
        return None
    worst = max(known, key=lambda step: math.inf if math.isnan(step.high) else step.high)
    holds = _decided(worst, worst.high <= math.log(FLAT))
    return f"up to {max(_beyond(claim, curve)):,}: at most {worst}", holds


def _falls(claim: SchemeClaim, curve: Curve, other: Curve | None) -> Found | None:
    far = max(_beyond(claim, curve), default=0)
    step = compare(curve, far, curve, curve.train_length) if far else None
    if step is None:
        return None
    return f"at {far:,} / at L: {step}", _decided(step, step.high < 0)


def _below(claim: SchemeClaim, curve: Curve, other: Curve | None) -> Found | None:
    assert other is not None
    lengths = [curve.train_length] if claim.up_to == 1 else _beyond(claim, curve)
    far = max((at for at in lengths if at in other.points), default=0)
    ratio = compare(curve, far, other, far) if far else None
    if ratio is None:
        return None
    return f"at {far:,}: {ratio}", _decided(ratio, ratio.high < 0)


def _steadier(claim: SchemeClaim, curve: Curve, other: Curve | None) -> Found | None:
    assert other is not None
    far = max((at for at in _beyond(claim, curve) if at in other.points), default=0)
    own = compare(curve, far, curve, curve.train_length) if far else None
    theirs = compare(other, far, other, other.train_length) if far else None
    if own is None or theirs is None:
        return None
    holds = _decided(theirs, own.high < theirs.low) if _decided(own, True) else None
    return f"rise to {far:,}: {own}, against {theirs}", holds


RULES = {
    "flat": Rule(
        "{} holds up to {up_to}.",
        f"perplexity at each length is at most {FLAT} of that at L",
        _flat,
    ),
    "falls": Rule(
        "{} improves up to {up_to}.", "perplexity at the longest length is below that at L", _falls
    ),
    "below": Rule(
        "{} is better than {against} at {up_to}.",
        "at the longest length that both have, the ratio of perplexities is below 1",
        _below,
    ),
    "steadier": Rule(
        "{} gets worse by less than {against} up to {up_to}.",
        "from L to the longest length that both have, perplexity rises by a lower ratio",
        _steadier,
    ),
}


@cache
def scheme_claims() -> tuple[SchemeClaim, ...]:
    """All lines of the file; a ValueError if one names a rule that does not exist."""
    with (EXPERIMENTS / "published" / "claims.csv").open(encoding="utf-8", newline="") as file:
        claims = [
            SchemeClaim(**{**line, "up_to": float(line["up_to"])})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        ]
    if bad := [claim for claim in claims if claim.rule not in RULES]:
        raise ValueError(f"claims.csv: rule '{bad[0].rule}' does not exist")
    return tuple(claims)
