"""The paper's own numbers, as curves that can be laid under ours.

Press, Smith, Lewis, "Train Short, Test Long" (ICLR 2022): perplexities of tables 2 to 10 and 12 to
15, speeds and memory of table 1, kept in experiments/paper/. Its WikiText-103 tokens are words, so
perplexity per token and per word are the same number there.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alibi_lm.evaluation.protocols import protocol_named
from alibi_lm.report.comparisons import Comparison, Curve, Point, Study, in_order

SOURCE = "Press et al. 2022"
WIKITEXT = f"wikitext103 ({SOURCE})"
TOKENS = "the paper's"  # words of WikiText, pieces of words elsewhere
FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "paper"
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
    with (FOLDER / "perplexity.csv").open(encoding="utf-8") as file:
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
def table_1() -> dict[tuple[str, int], PaperSpeed]:
    """Speeds and memory by scheme and length."""
    with (FOLDER / "speed.csv").open(encoding="utf-8") as file:
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


def curves_to_compare(group: Comparison, curves: Sequence[Curve]) -> list[Curve]:
    """The paper's curves of our schemes, at the training length nearest to ours of those it has.

    Nearest as a ratio, among the lengths at which the paper measured the most of our schemes at
    more than one evaluation length. Empty where the paper has nothing under this protocol.
    """
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
