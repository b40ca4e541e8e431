"""What the figures and tables are made from, as CSV for other tools."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alibi_lm.report.comparisons import Comparison, Curve
from alibi_lm.report.differences import differences
from alibi_lm.report.loss_by_position import loss_by_position

Groups = Mapping[Comparison, list[Curve]]


def positions_csv(groups: Groups) -> str:
    """Loss by position of every curve and length whose token losses were kept."""
    lines = [
        _comparison(group) | _curve("", curve) | {"eval_length": length} | dataclasses.asdict(found)
        for group, curves in groups.items()
        if group.protocol.by_position  # else every target has the same context
        for curve in curves
        for length in curve.lengths
        for found in loss_by_position(curve, length) or []
    ]
    return _csv(lines)


def differences_csv(groups: Groups) -> str:
    """Every pair of curves at every length: the difference, its interval, the seeds' range."""
    lines = []
    for group, curves in groups.items():
        for length, a, b, found in differences(curves):
            ratio = found.interval.ratio
            lines.append(
                _comparison(group)
                | {"eval_length": length}
                | _curve("a_", a)
                | _curve("b_", b)
                | {
                    "loss_a_minus_b": found.interval.estimate,
                    "low": found.interval.low,
                    "high": found.interval.high,
                    "ppl_ratio": ratio.estimate,
                    "ppl_ratio_low": ratio.low,
                    "ppl_ratio_high": ratio.high,
                    "seeds": len(found.by_seed),
                    "seeds_low": min(found.by_seed),
                    "seeds_high": max(found.by_seed),
                }
            )
    return _csv(lines)


def _comparison(group: Comparison) -> dict[str, Any]:
    return {
        "dataset": group.study.dataset,
        "split": group.study.split,
        "tokenizer": group.study.tokenizer,
        "recipe": group.study.recipe,
        "protocol": group.protocol.name,
        "stride": group.protocol.stride,
        "sample": group.protocol.sample,
    }


def _curve(prefix: str, curve: Curve) -> dict[str, Any]:
    keys = ("position", "variant", "train_length", "window", "changes")
    return {prefix + key: getattr(curve, key) for key in keys}


def _csv(lines: list[dict[str, Any]]) -> str:
    import pandas as pd

    # As objects, whole numbers beside missing ones stay whole.
    return pd.DataFrame(lines, dtype=object).to_csv(index=False) if lines else ""
