from hypothesis import given
from hypothesis import strategies as st

from alibi_lm.evaluation.spans import first_sampled, same_targets, sliding


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, int]:
    length = draw(st.integers(1, 60))
    return draw(st.integers(1, 400)), length, draw(st.integers(1, length))


@given(cases())
def test_every_target_is_scored_once_with_its_context(case: tuple[int, int, int]) -> None:
    n, length, stride = case
    scored: list[int] = []
    for start, scored_from, stop in sliding(n, length, stride).tolist():
        assert 0 <= start <= scored_from < stop <= n
        assert stop - start <= length
        # As much context as the length leaves beside a full stride, or all there is.
        assert scored_from - start == min(scored_from, length - stride)
        scored += range(scored_from, stop)
    assert scored == list(range(n))


@given(n=st.integers(1, 400), length=st.integers(1, 60))
def test_nonoverlapping_is_the_stride_of_the_length(n: int, length: int) -> None:
    blocks = sliding(n, length, length)
    assert len(blocks) == -(-n // length)
    assert (blocks[:, 0] == blocks[:, 1]).all()


def test_by_hand() -> None:
    assert sliding(10, 4, 4).tolist() == [[0, 0, 4], [4, 4, 8], [8, 8, 10]]
    assert sliding(7, 4, 2).tolist() == [[0, 0, 2], [0, 2, 4], [2, 4, 6], [4, 6, 7]]
    assert sliding(4, 3, 1).tolist() == [[0, 0, 1], [0, 1, 2], [0, 2, 3], [1, 3, 4]]


@given(n=st.integers(4, 400), data=st.data())
def test_same_targets_have_exactly_the_context_whatever_it_is(n: int, data: st.DataObject) -> None:
    earliest = first_sampled(n)
    sample = data.draw(st.integers(1, n - earliest))
    contexts = data.draw(st.lists(st.integers(1, earliest), min_size=1, max_size=4))
    drawn = set()
    for context in contexts:
        spans = same_targets(n, context, sample).tolist()
        targets = [scored_from for _, scored_from, _ in spans]
        assert targets == sorted(set(targets))
        assert all(earliest <= target < n for target in targets)
        assert len(targets) == sample
        for start, scored_from, stop in spans:
            assert stop == scored_from + 1
            assert stop - start == context
            assert start >= 0
        drawn.add(tuple(targets))
    assert len(drawn) == 1


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    small, large = (set(same_targets(1000, 5, sample)[:, 1].tolist()) for sample in (20, 100))
    assert small < large
