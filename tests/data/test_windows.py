from hypothesis import given
from hypothesis import strategies as st

from alibi_lm.data.windows import Window, windows


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, int]:
    length = draw(st.integers(1, 60))
    return draw(st.integers(1, 400)), length, draw(st.integers(1, length))


@given(cases())
def test_every_target_is_scored_once_with_its_context(case: tuple[int, int, int]) -> None:
    n, length, stride = case
    scored: list[int] = []
    for window in windows(n, length, stride):
        assert 0 <= window.start <= window.scored_from < window.stop <= n
        assert window.stop - window.start <= length
        # As much context as the length leaves beside a full stride, or all there is.
        assert window.scored_from - window.start == min(window.scored_from, length - stride)
        scored += range(window.scored_from, window.stop)
    assert scored == list(range(n))


@given(n=st.integers(1, 400), length=st.integers(1, 60))
def test_nonoverlapping_is_the_stride_of_the_length(n: int, length: int) -> None:
    blocks = list(windows(n, length, length))
    assert len(blocks) == -(-n // length)
    assert all(window.start == window.scored_from for window in blocks)


def test_by_hand() -> None:
    assert list(windows(10, 4, 4)) == [Window(0, 0, 4), Window(4, 4, 8), Window(8, 8, 10)]
    assert list(windows(7, 4, 2)) == [
        Window(0, 0, 2),
        Window(0, 2, 4),
        Window(2, 4, 6),
        Window(4, 6, 7),
    ]
