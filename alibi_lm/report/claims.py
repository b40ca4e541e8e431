"""Claims checked by machine: what a paper says, the rule that decides, and what was measured.

Every claim is checked by its rule twice: on the paper's published numbers and on ours. With token
losses at hand, differences have 95 % intervals (paired bootstrap over pieces of the text) and the
rule must hold for the whole interval; without them it is applied to the plain numbers, and the
finding says so. "Does not hold" therefore means: not shown under this rule by these results.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from alibi_lm.report.comparisons import Comparison, Curve, Study
from alibi_lm.report.differences import seed_differences
from alibi_lm.report.intervals import Interval, difference
from alibi_lm.report.published import WIKITEXT, perplexities, speeds
from alibi_lm.report.tables import Table, nearest

HOLDS, FAILS, NOT_MEASURED = "holds", "does not hold", "not measured"
FAR = 16  # the multiple of the training length that the first claims are about
FLAT = 1.02  # a perplexity that rises by less still counts as holding up


@dataclass(frozen=True)
class Finding:
    """What a rule finds in some results."""

    verdict: str
    evidence: tuple[str, ...] = ()  # a line for each training length or pair looked at


Curves = dict[str, list[Curve]]  # by protocol: "nonoverlapping", "sliding 1", "same_targets"
Rule = Callable[[Curves], Finding]


@dataclass(frozen=True)
class Claim:
    """One claim, with its rule in words and as a function."""

    words: str
    source: str
    rule: str
    check: Rule
    paper_from: int = 0  # the shortest training length that the paper says it of
    on_paper: Callable[[], Finding] | None = None  # where its numbers are no perplexities


@dataclass
class _Evidence:
    """Collects what each training length says; the claim holds if all of them do."""

    lines: list[str] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)

    def add(self, line: str, holds: bool) -> None:
        self.lines.append(line)
        self.verdicts.append(holds)

    def finding(self, otherwise: str) -> Finding:
        if not self.verdicts:
            return Finding(NOT_MEASURED, (otherwise,))
        return Finding(HOLDS if all(self.verdicts) else FAILS, tuple(self.lines))


@dataclass(frozen=True)
class _Compared:
    """Perplexity of one curve at one length over that of another, on the same tokens."""

    interval: Interval
    known: bool  # whether the interval is one, or token losses were not kept
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        ratio = self.interval.ratio
        if not self.known:
            return f"{ratio.estimate:.3f}"
        words = str(ratio)
        if len(self.seeds) > 1:
            low, high = (Interval(x, x, x).ratio.estimate for x in _ends(self.seeds))
            words += f", seeds {low:.3f} to {high:.3f}"
        return words


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _compare(a: Curve, at_a: int, b: Curve, at_b: int) -> _Compared:
    seeds = seed_differences(a, at_a, b, at_b)
    of_a, of_b = a.losses(at_a), b.losses(at_b)
    if of_a is not None and of_b is not None and of_a.shape == of_b.shape:
        return _Compared(difference(of_a, of_b), True, seeds)
    plain = a.means("loss")[at_a] - b.means("loss")[at_b]
    return _Compared(Interval(plain, plain, plain), False, seeds)


def _schemes(curves: Iterable[Curve], *positions: str) -> dict[int, list[Curve]]:
    """By training length, the plain curves of these schemes, where all of them are there."""
    found: dict[int, dict[str, Curve]] = {}
    for curve in curves:
        if not curve.window and not curve.variant and curve.position in positions:
            found.setdefault(curve.train_length, {})[curve.position] = curve
    return {
        length: [there[position] for position in positions]
        for length, there in sorted(found.items())
        if len(there) == len(positions)
    }


def _holds_up(curves: Curves) -> Finding:
    evidence = _Evidence()
    found = _schemes(curves.get("nonoverlapping", []), "alibi", "sinusoidal", "rotary")
    for length, (alibi, *others) in found.items():
        far = {curve.position: nearest(curve, FAR) for curve in (alibi, *others)}
        if None in far.values() or any(length not in c.points for c in (alibi, *others)):
            continue
        between = [at for at in alibi.lengths if length < at <= (far["alibi"] or 0)]
        steps = [_compare(alibi, at, alibi, length) for at in between]
        worst = max(steps, key=lambda step: step.interval.high)
        rises = {c.name: _compare(c, far[c.position] or 0, c, length) for c in others}
        flat = worst.interval.ratio.high <= FLAT
        rising = all(rise.interval.ratio.low > FLAT for rise in rises.values())
        words = ", ".join(f"{name} {rise}" for name, rise in rises.items())
        line = f"L = {length:,}: ALiBi at most {worst}; at {FAR} L: {words}"
        evidence.add(line, flat and rising)
    return evidence.finding(f"needs ALiBi, sinusoidal and rotary at L and {FAR} L, nonoverlapping")


def _shorter_beats(curves: Curves) -> Finding:
    evidence = _Evidence()
    plain = curves.get("nonoverlapping", [])
    trained = {length: curve for length, (curve,) in _schemes(plain, "sinusoidal").items()}
    for length, (alibi,) in _schemes(plain, "alibi").items():
        for long, sinusoidal in trained.items():
            if long > length and long in alibi.points and long in sinusoidal.points:
                ratio = _compare(alibi, long, sinusoidal, long)
                line = f"ALiBi L = {length:,} at {long:,} / sinusoidal L = {long:,}: {ratio}"
                evidence.add(line, ratio.interval.high < 0)
    return evidence.finding("needs ALiBi at L and sinusoidal trained at a multiple of L")


def _in_order(curves: Curves) -> Finding:
    evidence = _Evidence()
    found = _schemes(curves.get("nonoverlapping", []), "alibi", "t5", "rotary")
    for length, three in found.items():
        common = set.intersection(*(set(curve.points) for curve in three))
        far = max((at for at in common if at <= FAR * length * 1.05), default=length)
        if length not in common or far <= length:
            continue
        alibi, t5, rotary = (_compare(curve, far, curve, length) for curve in three)
        ordered = alibi.interval.high < t5.interval.low and t5.interval.high < rotary.interval.low
        line = f"L = {length:,}, rise to {far:,}: rotary {rotary}, T5 {t5}, ALiBi {alibi}"
        evidence.add(line, ordered)
    return evidence.finding("needs ALiBi, T5 and rotary at L and beyond, nonoverlapping")


def _early_tokens(curves: Curves) -> Finding:
    evidence = _Evidence()
    blocks = _schemes(curves.get("nonoverlapping", []), "alibi")
    slides = _schemes(curves.get("sliding 1", []), "alibi")
    for length in sorted(blocks.keys() & slides.keys()):
        (block,), (slide,) = blocks[length], slides[length]
        common = sorted(block.points.keys() & slide.points.keys())
        far = common[-1] if common else length
        if length not in common or far <= length:
            continue
        gain = _compare(block, length, block, far)
        left = _compare(slide, length, slide, far)
        explained = gain.interval.low > 0 and left.interval.high <= gain.interval.estimate / 2
        line = f"L = {length:,}, perplexity at L / at {far:,}: blocks {gain}, S = 1 {left}"
        evidence.add(line, explained)
    return evidence.finding("needs ALiBi at L and beyond, nonoverlapping and sliding with S = 1")


def _rises_past(curves: Curves) -> Finding:
    evidence = _Evidence()
    for length, (alibi,) in _schemes(curves.get("same_targets", []), "alibi").items():
        short = [at for at in alibi.lengths if length <= at <= 1.7 * length]
        beyond = [at for at in alibi.lengths if at > 1.7 * length]
        if not short or not beyond:
            continue
        lowest = min(short, key=lambda at: alibi.means("loss")[at])
        rise = _compare(alibi, beyond[-1], alibi, lowest)
        line = f"L = {length:,}, {beyond[-1]:,} / {lowest:,} tokens of context: {rise}"
        evidence.add(line, rise.interval.low > 0)
    return evidence.finding("needs ALiBi with up to 1.7 L and more tokens of context, same_targets")


def _beats_its_window(curves: Curves) -> Finding:
    evidence = _Evidence()
    blocks = curves.get("nonoverlapping", [])
    windowed = {
        c.train_length: c
        for c in blocks
        if c.position == "alibi" and not c.variant and c.window == c.train_length
    }
    for length, (alibi,) in _schemes(blocks, "alibi").items():
        limited = windowed.get(length)
        far = max(alibi.points.keys() & limited.points.keys(), default=0) if limited else 0
        if limited and far > length:
            ratio = _compare(alibi, far, limited, far)
            line = f"L = {length:,}, at {far:,}, all keys / the last {length:,}: {ratio}"
            evidence.add(line, ratio.interval.high < 0)
    return evidence.finding("needs ALiBi beyond L with attention=[full,window], nonoverlapping")


def _as_fast(curves: Curves) -> Finding:
    return Finding(NOT_MEASURED, ("rows of results hold no speed of training",))


def _as_fast_published() -> Finding:
    evidence = _Evidence()
    table = speeds()
    for position, length in table:
        if position != "alibi":
            continue
        alibi, sinusoidal = table["alibi", length], table["sinusoidal", length]
        speed = alibi.train_words_per_second / sinusoidal.train_words_per_second
        memory = alibi.train_memory_gb / sinusoidal.train_memory_gb
        line = f"L = {length:,}: speed {speed:.3f}, memory {memory:.3f} of sinusoidal's"
        evidence.add(line, speed >= 0.98 and memory <= 1.01)
    return evidence.finding("table 1")


CLAIMS = (
    Claim(
        f"ALiBi improves or holds up to {FAR} L, while sinusoidal and rotary models get worse.",
        "Press et al., figures 1 and 4, tables 2 to 4",
        f"Nonoverlapping, at every training length: ALiBi's perplexity at each length up to {FAR} "
        f"L is at most {FLAT} of that at L; sinusoidal's and rotary's at {FAR} L are above {FLAT}.",
        _holds_up,
    ),
    Claim(
        "ALiBi trained at L and evaluated at k L beats sinusoidal trained at k L.",
        "Press et al., section 4.1, table 5; said of L = 512 and more",
        "Nonoverlapping at k L, for every pair of training lengths L < k L: the ratio of "
        "perplexities is below 1.",
        _shorter_beats,
        paper_from=512,
    ),
    Claim(
        "The T5 bias extrapolates further than rotary and less far than ALiBi.",
        "Press et al., section 2.2, figure 1",
        "Nonoverlapping, from L to the longest length that all three have, up to "
        f"{FAR} L: the ratio of perplexities is lower for ALiBi than for T5, and lower for T5 than "
        "for rotary, and their intervals do not touch.",
        _in_order,
    ),
    Claim(
        "ALiBi trains as fast as sinusoidal embeddings and uses at most 1 % more memory.",
        "Press et al., section 3, figure 2, table 1",
        "At every training length: ALiBi's training speed is at least 0.98 of sinusoidal's, "
        "measured in turns on one machine, and its peak memory at most 1.01 of it.",
        _as_fast,
        on_paper=_as_fast_published,
    ),
    Claim(
        "ALiBi's gains past L come from the early token curse.",
        "Press et al., appendix B, table 15",
        "From L to the longest common length: nonoverlapping perplexity falls, and sliding with "
        "stride 1 falls by less than half of that, in nats.",
        _early_tokens,
    ),
    Claim(
        "With the same targets, ALiBi gets worse with more context than 1.7 L.",
        "Kazemnejad et al. 2023",
        "same_targets: the loss with the longest context is above the lowest with L to 1.7 L.",
        _rises_past,
    ),
    Claim(
        "ALiBi uses what lies beyond L: it beats itself with attention limited to the last L keys.",
        "a window as baseline: Chi et al. 2022 (KERPLE)",
        "Nonoverlapping, at the longest length: the ratio of perplexities with all keys and with a "
        "window of L is below 1.",
        _beats_its_window,
    ),
)


@dataclass(frozen=True)
class Checked:
    """A claim with what was found in the paper and in each study of ours."""

    claim: Claim
    paper: Finding
    ours: dict[Study, Finding]


def check_claims(groups: dict[Comparison, list[Curve]]) -> list[Checked]:
    """Every claim on the published numbers and on every study."""
    studies = list(dict.fromkeys(group.study for group in groups))
    return [
        Checked(
            claim,
            claim.on_paper() if claim.on_paper else claim.check(_of_paper(claim.paper_from)),
            {study: claim.check(_of_study(groups, study)) for study in studies},
        )
        for claim in CLAIMS
    ]


def _of_study(groups: dict[Comparison, list[Curve]], study: Study) -> Curves:
    found: Curves = {}
    for group, curves in groups.items():
        if group.study == study:
            stride = f" {group.stride}" if group.stride else ""
            found.setdefault(group.protocol + stride, curves)
    return found


def _of_paper(from_length: int) -> Curves:
    """Its results on the WikiText-103 validation split; ALiBi's from that training length on."""
    groups = perplexities()
    (study,) = {
        group.study
        for group in groups
        if (group.study.dataset, group.study.split) == (WIKITEXT, "validation")
    }
    return {
        protocol: [curve for curve in curves if curve.train_length >= from_length]
        for protocol, curves in _of_study(groups, study).items()
    }


def claims_table(checked: Sequence[Checked], named: dict[Study, str]) -> Table:
    """A line for each claim and study: the words, the paper's finding, ours, the rule."""
    body = []
    for found in checked:
        for study, ours in found.ours.items():
            body.append(
                [
                    found.claim.words,
                    found.claim.rule,
                    f"**{found.paper.verdict}**: {'; '.join(found.paper.evidence)}",
                    named[study],
                    f"**{ours.verdict}**: {'; '.join(ours.evidence)}",
                ]
            )
    return Table(["claim", "rule", "in the paper", "data", "here"], body, texts=5)
