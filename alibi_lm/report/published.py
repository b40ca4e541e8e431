"""Published numbers, as curves that can be laid under ours: the paper's own, and other papers'.

Press, Smith, Lewis, "Train Short, Test Long" (ICLR 2022): perplexities of tables 2 to 10 and 12 to
15, speeds and memory of table 1, kept in experiments/paper/. Its WikiText-103 tokens are words, so
perplexity per token and per word are the same number there. What other papers report of other
schemes is in experiments/published/; their texts and tokens are others, so that the change with
length is all that compares.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from alibi_lm.evaluation.protocols import protocol_named
from alibi_lm.machine import installation
from alibi_lm.report.comparisons import Comparison, Curve, Point, Study, in_order

SOURCE = "Press et al. 2022"
WIKITEXT = f"wikitext103 ({SOURCE})"
TOKENS = "the paper's"  # words of WikiText, pieces of words elsewhere
EXPERIMENTS = installation.folder("experiments")
SEED = 1  # of every run of the paper


@dataclass(frozen=True)
class PaperSpeed:
    """A line of the paper's table 1: one V100, words per second, gigabytes."""

    position: str
    length: int
    train_words_per_second: float
    eval_words_per_second: float
    train_memory_gb: float


@cache
def perplexities() -> dict[Comparison, list[Curve]]:
    """Every published perplexity, in the same groups as ours."""
    groups: dict[Comparison, dict[tuple[str, int], Curve]] = {}
    with (EXPERIMENTS / "paper" / "perplexity.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            study = Study(f"{line['dataset']} ({SOURCE})", line["split"], TOKENS, "", SOURCE)
            stride = int(line["stride"]) if line["stride"] else None
            group = Comparison(study, protocol_named(line["protocol"], length=0, stride=stride))
            key = (line["position"], int(line["train_length"]))
            curve = groups.setdefault(group, {}).setdefault(key, Curve(*key))
            ppl = float(line["ppl"])
            metrics = {"ppl": ppl, "loss": math.log(ppl)}
            if study.dataset == WIKITEXT:
                metrics["word_ppl"] = ppl
            curve.points.setdefault(int(line["eval_length"]), {})[SEED] = Point(metrics)
    return {group: in_order(curves.values()) for group, curves in groups.items()}


@cache
def of_other_papers() -> dict[Comparison, list[Curve]]:
    """What other papers report, each table and model a study of its own."""
    groups: dict[Comparison, dict[tuple[str, int, str, str], Curve]] = {}
    with (EXPERIMENTS / "published" / "perplexity.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            of = f"{line['source']}, {line['model']}"
            study = Study(f"{line['dataset']} ({of})", line["split"], "its own", "", of)
            stride = int(line["stride"]) if line["stride"] else None
            group = Comparison(study, protocol_named(line["protocol"], length=0, stride=stride))
            key = (line["position"], int(line["train_length"]), line["variant"], line["changes"])
            position, length, variant, changes = key
            curve = groups.setdefault(group, {}).setdefault(
                key, Curve(position, length, variant, changes=changes)
            )
            ppl = float(line["ppl"])
            metrics = {"ppl": ppl, "loss": math.log(ppl)}
            curve.points.setdefault(int(line["eval_length"]), {})[SEED] = Point(metrics)
    return {group: in_order(curves.values()) for group, curves in groups.items()}


@cache
def table_1() -> dict[tuple[str, int], PaperSpeed]:
    """Speeds and memory by scheme and length."""
    with (EXPERIMENTS / "paper" / "speed.csv").open(encoding="utf-8") as file:
        lines = [
            PaperSpeed(
                line["position"],
                int(line["length"]),
                float(line["train_words_per_second"]),
                float(line["eval_words_per_second"]),
                float(line["train_memory_gb"]),
            )
            for line in csv.DictReader(file)
        ]
    return {(speed.position, speed.length): speed for speed in lines}


def claimed_on() -> Study:
    """The data that the paper's claims are about: the validation split of WikiText-103."""
    return Study(WIKITEXT, "validation", TOKENS, "", SOURCE)


def paper_group(group: Comparison) -> Comparison | None:
    """The paper's results on WikiText-103 under the same protocol and split, if there are any."""
    for theirs in perplexities():
        if (theirs.study.dataset, theirs.study.split, theirs.protocol) == (
            WIKITEXT,
            group.study.split,
            group.protocol,
        ):
            return theirs
    return None


def is_the_papers_data(study: Study) -> bool:
    """Whether our perplexities are of the paper's own tokens, so that absolute numbers compare."""
    return (study.dataset, study.tokenizer) == ("wikitext103", "words")


@dataclass(frozen=True)
class Published:
    """Curves of one source that are laid under ours."""

    source: str
    curves: list[Curve]


def curves_to_compare(group: Comparison, curves: Sequence[Curve]) -> list[Published]:
    """Published curves of our schemes: the paper's, then other papers' of schemes it has not.

    Of the paper, those at the training length nearest to ours, as a ratio, among the lengths at
    which it measured the most of our schemes at more than one evaluation length; of the others,
    those of the study with the most of our schemes, until all that were published are there.
    """
    ours = {scheme_of(curve) for curve in curves}
    found = [Published(SOURCE, of_paper)] if (of_paper := _of_paper(group, curves)) else []
    ours -= {scheme_of(curve) for published in found for curve in published.curves}
    studies = {
        other.study: [curve for curve in theirs if len(curve.points) > 1 and _has_base(curve)]
        for other, theirs in of_other_papers().items()
        if other.protocol == group.protocol
    }
    while ours:
        counts = {s: len(ours & {scheme_of(c) for c in theirs}) for s, theirs in studies.items()}
        best = max(counts, key=lambda study: counts[study], default=None)
        if best is None or not counts[best]:
            break
        chosen = [curve for curve in studies[best] if scheme_of(curve) in ours]
        found.append(Published(best.dataset, chosen))
        ours -= {scheme_of(curve) for curve in chosen}
    return found


def scheme_of(curve: Curve) -> tuple[str, str, str]:
    """The scheme as it was trained and read; of a reading, its kind alone."""
    return curve.position, curve.variant, reading_of(curve.changes)


def reading_of(changes: str) -> str:
    """What a scheme was read as, without numbers: `position=rerope`, `position.scaling=yarn`."""
    words = changes.split()
    kinds = [word for word in words if word.startswith(("position=", "position.scaling="))]
    return kinds[0] if kinds else changes


def _has_base(curve: Curve) -> bool:
    """Whether it can be drawn relative to its training length."""
    return curve.train_length in curve.points


def _of_paper(group: Comparison, curves: Sequence[Curve]) -> list[Curve]:
    theirs = paper_group(group)
    if theirs is None:
        return []
    ours = {curve.position for curve in curves}
    drawn = [c for c in perplexities()[theirs] if c.position in ours and len(c.points) > 1]
    if not drawn:
        return []
    by_length = {
        length: [c for c in drawn if c.train_length == length]
        for length in sorted({c.train_length for c in drawn})
    }
    most = max(len(found) for found in by_length.values())
    ours_at = sorted({curve.train_length for curve in curves})[0]
    candidates = [length for length, found in by_length.items() if len(found) == most]
    return by_length[min(candidates, key=lambda length: abs(math.log(length / ours_at)))]
