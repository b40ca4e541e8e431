"""Claims checked by machine: what a paper says, the rule that decides, and what was measured.

Those of the ALiBi paper are rules written here, what other papers say of their schemes is data
(scheme_claims.py). Every claim is checked by its rule twice: on published numbers and on ours.
Differences are taken over the seeds that both sides have. If token losses were kept they have 95 %
intervals (paired bootstrap over pieces of the text), and the rule must hold for the whole interval
and for every seed; without them, for every seed, and the finding shows no brackets. "Does not hold"
means: not shown under this rule by these results. If a loss is NaN, nothing is decided.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from alibi_lm.benchmark.rows import OURS, TRAINING, Speed
from alibi_lm.report.comparisons import Comparison, Curve, Study
from alibi_lm.report.differences import Difference, compare
from alibi_lm.report.legend import title
from alibi_lm.report.published import claimed_on, of_other_papers, perplexities, table_1
from alibi_lm.report.scheme_claims import FLAT, PROTOCOL, RULES, SchemeClaim, find, scheme_claims
from alibi_lm.report.tables import NEAR, Table, nearest

HOLDS, FAILS, NOT_MEASURED = "holds", "does not hold", "not measured"
FAR = 16  # the multiple of the training length that the first claims are about


@dataclass(frozen=True)
class Finding:
    """What a rule finds in some results."""

    verdict: str
    evidence: tuple[str, ...] = ()  # a line for each training length or pair looked at


Curves = dict[str, list[Curve]]  # by protocol: "nonoverlapping", "sliding 1", "same_targets"
# Speed and memory of training by scheme and length, in whatever units are the same for all.
Speeds = dict[tuple[str, int], tuple[float, float]]
Rule = Callable[[Curves, Speeds], Finding]


@dataclass(frozen=True)
class Claim:
    """One claim, with its rule in words and as a function."""

    words: str
    source: str
    rule: str
    check: Rule
    paper_from: int = 0  # the shortest training length that the paper says it of


@dataclass
class _Evidence:
    """Collects what each training length says; the claim holds if all of them do."""

    lines: list[str] = field(default_factory=list)
    verdicts: list[bool | None] = field(default_factory=list)

    def add(self, line: str, holds: bool | None) -> None:
        """holds: None where the line decides nothing."""
        self.lines.append(line)
        self.verdicts.append(holds)

    def finding(self, otherwise: str) -> Finding:
        """The verdict over all lines; `otherwise` is what was missing if there are none."""
        if not self.verdicts:
            return Finding(NOT_MEASURED, (otherwise,))
        if False in self.verdicts:
            verdict = FAILS
        else:
            verdict = NOT_MEASURED if None in self.verdicts else HOLDS
        return Finding(verdict, tuple(self.lines))


def _all(*conditions: bool, of: Sequence[Difference]) -> bool | None:
    """Whether all hold; None if any of the differences is NaN."""
    if any(math.isnan(x) for d in of for x in (d.low, d.high)):
        return None
    return all(conditions)


def _schemes(curves: Iterable[Curve], *positions: str) -> dict[int, list[Curve]]:
    """By training length, the plain curves of these schemes, where all of them are there."""
    found: dict[int, dict[str, Curve]] = {}
    for curve in curves:
        if curve.is_plain and curve.position in positions:
            found.setdefault(curve.train_length, {})[curve.position] = curve
    return {
        length: [there[position] for position in positions]
        for length, there in sorted(found.items())
        if len(there) == len(positions)
    }


def _known(found: Iterable[Difference | None]) -> list[Difference]:
    return [difference for difference in found if difference is not None]


def _holds_up(curves: Curves, speeds: Speeds) -> Finding:
    evidence = _Evidence()
    flat = math.log(FLAT)
    found = _schemes(curves.get("nonoverlapping", []), "alibi", "sinusoidal", "rotary")
    for length, (alibi, *others) in found.items():
        far = nearest(alibi, FAR) or length
        between = [at for at in alibi.lengths if length < at <= far]
        steps = _known(compare(alibi, at, alibi, length) for at in between)
        rises = _known(compare(c, nearest(c, FAR) or 0, c, length) for c in others)
        if not between or len(steps) < len(between) or len(rises) < len(others):
            continue
        worst = max(steps, key=lambda step: math.inf if math.isnan(step.high) else step.high)
        rising = all(rise.low > flat for rise in rises)
        sinusoidal, rotary = rises
        line = f"ALiBi at most {worst}; at {FAR} L: sinusoidal {sinusoidal}, rotary {rotary}"
        holds = _all(worst.high <= flat, rising, of=[worst, *rises])
        evidence.add(f"L = {length:,}: {line}", holds)
    return evidence.finding(f"needs ALiBi, sinusoidal and rotary at L and {FAR} L, nonoverlapping")


def _shorter_beats(curves: Curves, speeds: Speeds) -> Finding:
    evidence = _Evidence()
    plain = curves.get("nonoverlapping", [])
    trained = {length: curve for length, (curve,) in _schemes(plain, "sinusoidal").items()}
    for length, (alibi,) in _schemes(plain, "alibi").items():
        for long, sinusoidal in trained.items():
            ratio = compare(alibi, long, sinusoidal, long) if long > length else None
            if ratio:
                line = f"ALiBi L = {length:,} at {long:,} / sinusoidal L = {long:,}: {ratio}"
                evidence.add(line, _all(ratio.high < 0, of=[ratio]))
    return evidence.finding("needs ALiBi at L and sinusoidal trained at a longer length")


def _in_order(curves: Curves, speeds: Speeds) -> Finding:
    evidence = _Evidence()
    found = _schemes(curves.get("nonoverlapping", []), "alibi", "t5", "rotary")
    for length, three in found.items():
        common = set.intersection(*(set(curve.points) for curve in three))
        far = max((at for at in common if length < at <= FAR * NEAR * length), default=None)
        rises = _known([compare(curve, far, curve, length) for curve in three] if far else [])
        if far is None or len(rises) < 3:
            continue
        alibi, t5, rotary = rises
        ordered = _all(alibi.high < t5.low, t5.high < rotary.low, of=rises)
        line = f"L = {length:,}, rise to {far:,}: rotary {rotary}, T5 {t5}, ALiBi {alibi}"
        evidence.add(line, ordered)
    return evidence.finding("needs ALiBi, T5 and rotary at L and beyond, nonoverlapping")


def _early_tokens(curves: Curves, speeds: Speeds) -> Finding:
    evidence = _Evidence()
    blocks = _schemes(curves.get("nonoverlapping", []), "alibi")
    slides = _schemes(curves.get("sliding 1", []), "alibi")
    for length in sorted(blocks.keys() & slides.keys()):
        (block,), (slide,) = blocks[length], slides[length]
        far = max(block.points.keys() & slide.points.keys(), default=length)
        both = _known([compare(curve, length, curve, far) for curve in (block, slide)])
        if far <= length or len(both) < 2:
            continue
        gain, left = both
        line = f"L = {length:,}, perplexity at L / at {far:,}: blocks {gain}, S = 1 {left}"
        if not gain.low > 0:
            evidence.add(f"{line}: no gain to explain", None)
        else:
            evidence.add(line, _all(left.high <= gain.interval.estimate / 2, of=both))
    return evidence.finding("needs ALiBi at L and beyond, nonoverlapping and sliding with S = 1")


def _rises_past(curves: Curves, speeds: Speeds) -> Finding:
    evidence = _Evidence()
    for length, (alibi,) in _schemes(curves.get("same_targets", []), "alibi").items():
        beyond = max((at for at in alibi.lengths if at > 1.7 * length), default=None)
        rise = compare(alibi, beyond, alibi, length) if beyond else None
        if rise:
            line = f"L = {length:,}, {beyond:,} / {length:,} tokens of context: {rise}"
            evidence.add(line, _all(rise.low > 0, of=[rise]))
    return evidence.finding(
        "needs ALiBi with L and more than 1.7 L tokens of context, same_targets"
    )


def _beats_its_window(curves: Curves, speeds: Speeds) -> Finding:
    evidence = _Evidence()
    blocks = curves.get("nonoverlapping", [])
    windowed = {
        curve.train_length: curve
        for curve in blocks
        if replace(curve, window=None).is_plain
        and (curve.position, curve.window) == ("alibi", curve.train_length)
    }
    for length, (alibi,) in _schemes(blocks, "alibi").items():
        limited = windowed.get(length, Curve("alibi", length))
        far = max(alibi.points.keys() & limited.points.keys(), default=length)
        ratio = compare(alibi, far, limited, far) if far > length else None
        if ratio:
            line = f"L = {length:,}, at {far:,}, all keys / the last {length:,}: {ratio}"
            evidence.add(line, _all(ratio.high < 0, of=[ratio]))
    return evidence.finding("needs ALiBi beyond L with attention=[full,window], nonoverlapping")


def _as_fast(curves: Curves, speeds: Speeds) -> Finding:
    evidence = _Evidence()
    for position, length in speeds:
        if position != "alibi" or ("sinusoidal", length) not in speeds:
            continue
        (speed, memory), base = speeds["alibi", length], speeds["sinusoidal", length]
        speed, memory = speed / base[0], memory / base[1]
        line = f"L = {length:,}: speed {speed:.3f}, memory {memory:.3f} of sinusoidal's"
        evidence.add(line, speed >= 0.98 and memory <= 1.01)
    return evidence.finding("no benchmark with training of alibi and sinusoidal (speed=FOLDER)")


CLAIMS = (
    Claim(
        f"ALiBi improves or holds up to {FAR} L, while sinusoidal and rotary models get worse.",
        "Press et al., figures 1 and 4, tables 2 to 4",
        f"Nonoverlapping, at every training length: ALiBi's perplexity at each length up to {FAR} "
        f"L is at most {FLAT} of that at L; sinusoidal's and rotary's at {FAR} L are above {FLAT}.",
        _holds_up,
    ),
    Claim(
        "ALiBi trained at L and evaluated at a longer length beats sinusoidal trained at that.",
        "Press et al., section 4.1, table 5; said of L = 512 and more",
        "Nonoverlapping at the longer length, for every pair of training lengths: the ratio of "
        "perplexities is below 1.",
        _shorter_beats,
        paper_from=512,
    ),
    Claim(
        "The T5 bias extrapolates further than rotary and less far than ALiBi.",
        "Press et al., section 2.2, figure 1",
        "Nonoverlapping, from L to the longest length that all three have, up to "
        f"{FAR} L: the ratio of perplexities is lower for ALiBi than for T5, and lower for T5 than "
        "for rotary, and their ranges do not touch.",
        _in_order,
    ),
    Claim(
        "ALiBi trains as fast as sinusoidal embeddings and uses at most 1 % more memory.",
        "Press et al., section 3, figure 2, table 1",
        "At every training length: ALiBi's training speed is at least 0.98 of sinusoidal's, "
        "measured in turns on one machine, and its peak memory at most 1.01 of it.",
        _as_fast,
    ),
    Claim(
        "ALiBi's gains past L come from the early token curse.",
        "Press et al., appendix B, table 15",
        "From L to the longest common length, in nats: sliding with stride 1 gains less than half "
        "of what nonoverlapping gains. Without a gain in blocks there is nothing to decide.",
        _early_tokens,
    ),
    Claim(
        "With the same targets, ALiBi gets worse with more context than 1.7 L.",
        "Kazemnejad et al. 2023",
        "same_targets, its largest sample: the loss with the longest context, of more than 1.7 L "
        "tokens, is above that with L tokens.",
        _rises_past,
    ),
    Claim(
        "ALiBi gains from attending beyond L: it beats itself limited to the last L keys.",
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


def check_claims(
    groups: dict[Comparison, list[Curve]], benchmark: Sequence[Speed] = ()
) -> list[Checked]:
    """Every claim on the published numbers, and on every study with the speeds of a benchmark."""
    studies = list(dict.fromkeys(group.study for group in groups))
    theirs, ours = _of_table_1(), _of_benchmark(benchmark)
    there = {curve.position for curves in groups.values() for curve in curves}
    of_schemes = [_claim_on(each) for each in scheme_claims() if each.position in there]
    published = [(claim, claim.check(_of_paper(claim.paper_from), theirs)) for claim in CLAIMS]
    published += [(claim, _of_other_papers(claim)) for claim in of_schemes]
    return [
        Checked(claim, of_paper, {s: claim.check(_of_study(groups, s), ours) for s in studies})
        for claim, of_paper in published
    ]


def _claim_on(scheme: SchemeClaim) -> Claim:
    """A scheme's claim with its rule in words and as a function."""
    needed = " and ".join(filter(None, (scheme.name, title(scheme.against))))

    def check(curves: Curves, speeds: Speeds) -> Finding:
        evidence = _Evidence()
        for line, holds in find(scheme, curves.get(PROTOCOL, [])):
            evidence.add(line, holds)
        return evidence.finding(f"needs {needed} at L and beyond, nonoverlapping")

    rule = f"Nonoverlapping, at every training length: {RULES[scheme.rule].decides}, up to "
    return Claim(scheme.words, scheme.source, f"{rule}{scheme.up_to:g} L.", check)


def _of_other_papers(claim: Claim) -> Finding:
    """What the claim finds in all that other papers published, each line with its study."""
    others = of_other_papers()
    studies = dict.fromkeys(group.study for group in others)
    found = {study: claim.check(_of_study(others, study), {}) for study in studies}
    measured = {s: finding for s, finding in found.items() if finding.verdict != NOT_MEASURED}
    if not measured:
        return next(iter(found.values()))
    fails = any(finding.verdict == FAILS for finding in measured.values())
    lines = (f"{s.dataset}, {line}" for s, finding in measured.items() for line in finding.evidence)
    return Finding(FAILS if fails else HOLDS, tuple(lines))


def _of_table_1() -> Speeds:
    return {
        key: (line.train_words_per_second, line.train_memory_gb) for key, line in table_1().items()
    }


def _of_benchmark(rows: Sequence[Speed]) -> Speeds:
    """Of our own models; the speed is relative to `none`, as measured within rounds."""
    return {
        (row.position, row.length): (1 / row.time_ratio, row.peak_memory_bytes)
        for row in rows
        if (row.library, row.phase) == (OURS, TRAINING) and row.time_ratio and row.peak_memory_bytes
    }


def _of_study(groups: dict[Comparison, list[Curve]], study: Study) -> Curves:
    of_study = [group for group in groups if group.study == study]
    # Of several samples the largest speaks.
    of_study.sort(key=lambda group: group.protocol.sample or 0)
    stride = {g: f" {g.protocol.stride}" if g.protocol.stride else "" for g in of_study}
    return {group.protocol.name + stride[group]: groups[group] for group in of_study}


def _of_paper(from_length: int) -> Curves:
    """Its results on the WikiText-103 validation split; ALiBi's from that training length on."""
    return {
        protocol: [curve for curve in curves if curve.train_length >= from_length]
        for protocol, curves in _of_study(perplexities(), claimed_on()).items()
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
    return Table(["claim", "rule", "published", "data", "here"], body, texts=5)
