from itertools import pairwise
from pathlib import Path

import numpy as np
from samples import ROW, result

from alibi_lm.evaluation.rows import Result
from alibi_lm.report.comparisons import comparisons
from alibi_lm.report.csv_files import positions_csv
from alibi_lm.report.loss_by_position import bins_to_draw, has_positions, loss_by_position


def test_losses_by_hand(tmp_path: Path) -> None:
    """Ten tokens in blocks of four; the loss is the context, plus the sample's noise."""
    made = result(tmp_path, float, eval_length=4, stride=4, tokens=10)
    losses = made.losses()
    assert losses is not None
    ((group, curves),) = comparisons([made]).items()
    bins = loss_by_position(curves[0], 4)
    assert bins is not None
    assert [(b.context_from, b.context_to, b.tokens) for b in bins] == [
        (1, 1, 3),
        (2, 2, 3),
        (3, 4, 4),
    ]
    assert bins[0].loss == np.mean(losses[[0, 4, 8]])
    assert bins[2].loss == np.mean(losses[[2, 3, 6, 7]])
    lines = positions_csv({group: curves}).splitlines()
    assert len(lines) == 1 + 3
    assert lines[0].endswith("eval_length,context_from,context_to,tokens,loss")


def test_the_texts_start_is_not_drawn(tmp_path: Path) -> None:
    """With stride 1 all but the first tokens of the text have the same context."""
    for stride, drawn_from in ((64, 1), (16, 46), (1, 46)):
        made = result(
            tmp_path, lambda c: 3.0, protocol="sliding", eval_length=64, stride=stride, tokens=5000
        )
        (curves,) = comparisons([made]).values()
        drawn = bins_to_draw(curves[0])
        assert drawn[0].context_from == drawn_from
        assert has_positions(curves) == (len(drawn) > 1) == (stride == 64)
        every = loss_by_position(curves[0], 64)
        assert every is not None
        assert sum(found.tokens for found in every) == 5000


def test_without_token_losses() -> None:
    (curves,) = comparisons([Result(ROW)]).values()
    assert loss_by_position(curves[0], 128) is None
    assert not has_positions(curves)


def test_every_token_is_in_one_bin(tmp_path: Path) -> None:
    for length, stride in ((100, 100), (37, 5), (9, 1)):
        made = result(
            tmp_path, lambda c: 1.0, protocol="sliding", eval_length=length, stride=stride
        )
        (curves,) = comparisons([made]).values()
        bins = loss_by_position(curves[0], length)
        assert bins is not None
        assert sum(b.tokens for b in bins) == 1000
        assert bins[-1].context_to == length
        ends = [(b.context_from, b.context_to) for b in bins]
        assert all(a[1] < b[0] for a, b in pairwise(ends))
