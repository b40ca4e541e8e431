from hypothesis import given
from hypothesis import strategies as st

from alibi_lm.evaluation.spans import Window, first_sampled, same_targets, sliding


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, int]:
    length = draw(st.integers(1, 60))
    return draw(st.integers(1, 400)), length, draw(st.integers(1, length))


@given(cases())
def test_every_target_is_scored_once_with_its_context(case: tuple[int, int, int]) -> None:
    n, length, stride = case
    scored: list[int] = []
    for window in sliding(n, length, stride):
        assert 0 <= window.start <= window.scored_from < window.stop <= n
        assert window.stop - window.start <= length
        # As much context as the length leaves beside a full stride, or all there is.
        assert window.scored_from - window.start == min(window.scored_from, length - stride)
        scored += range(window.scored_from, window.stop)
    assert scored == list(range(n))


@given(n=st.integers(1, 400), length=st.integers(1, 60))
def test_nonoverlapping_is_the_stride_of_the_length(n: int, length: int) -> None:
    blocks = list(sliding(n, length, length))
    assert len(blocks) == -(-n // length)
    assert all(window.start == window.scored_from for window in blocks)


def test_by_hand() -> None:
    assert list(sliding(10, 4, 4)) == [Window(0, 0, 4), Window(4, 4, 8), Window(8, 8, 10)]
    assert list(sliding(7, 4, 2)) == [
        Window(0, 0, 2),
        Window(0, 2, 4),
        Window(2, 4, 6),
        Window(4, 6, 7),
    ]
    assert list(sliding(4, 3, 1)) == [
        Window(0, 0, 1),
        Window(0, 1, 2),
        Window(0, 2, 3),
        Window(1, 3, 4),
    ]


@given(n=st.integers(4, 400), data=st.data())
def test_same_targets_have_exactly_the_context_whatever_it_is(n: int, data: st.DataObject) -> None:
    earliest = first_sampled(n)
    sample = data.draw(st.integers(1, n - earliest))
    contexts = data.draw(st.lists(st.integers(1, earliest), min_size=1, max_size=4))
    drawn = set()
    for context in contexts:
        windows = list(same_targets(n, context, sample))
        targets = [window.scored_from for window in windows]
        assert targets == sorted(set(targets))
        assert all(earliest <= target < n for target in targets)
        assert len(targets) == sample
        for window in windows:
            assert window.stop == window.scored_from + 1
            assert window.stop - window.start == context
            assert window.start >= 0
        drawn.add(tuple(targets))
    assert len(drawn) == 1


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    small, large = (
        {window.scored_from for window in same_targets(1000, 5, sample)} for sample in (20, 100)
    )
    assert small < large
