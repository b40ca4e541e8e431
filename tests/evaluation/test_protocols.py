from hypothesis import given
from hypothesis import strategies as st

from alibi_lm.evaluation.protocols import Protocol


@st.composite
def protocols(draw: st.DrawFn) -> tuple[Protocol, int]:
    n = draw(st.integers(4, 300))
    length = draw(st.integers(1, n // 2))
    name = draw(st.sampled_from(["nonoverlapping", "sliding", "same_targets"]))
    if name == "same_targets":
        sample = draw(st.integers(1, n - n // 2))
        return Protocol(name, length, "test", sample=sample), n
    stride = length if name == "nonoverlapping" else draw(st.integers(1, length))
    return Protocol(name, length, "test", stride=stride), n


@given(protocols())
def test_contexts_are_those_of_the_windows_in_the_order_of_the_losses(
    case: tuple[Protocol, int],
) -> None:
    protocol, n = case
    assert protocol.problem(n) is None
    contexts = protocol.contexts(n)
    assert len(contexts) == protocol.scores(n)
    assert contexts.min() >= 1
    assert contexts.max() <= protocol.length
    if protocol.name == "same_targets":
        assert set(contexts.tolist()) == {protocol.length}
    if protocol.name == "sliding":
        assert protocol.stride is not None
        late = contexts[protocol.length :]  # the text's start has less to offer
        assert (late > protocol.length - protocol.stride).all()
    # Progress counts what is read, but for the windows that the text's ends cut short.
    read = sum(window.stop - window.start for window in protocol.windows(n))
    assert read <= protocol.reads(n)


def test_contexts_by_hand() -> None:
    assert Protocol("nonoverlapping", 3, "test", stride=3).contexts(7).tolist() == [
        1, 2, 3, 1, 2, 3, 1,
    ]  # fmt: skip
    assert Protocol("sliding", 3, "test", stride=1).contexts(5).tolist() == [1, 2, 3, 3, 3]


def test_what_cannot_be() -> None:
    blocks = Protocol("nonoverlapping", 11, "test", stride=11)
    assert blocks.problem(11) is None
    assert blocks.problem(10) == "evaluation.lengths: given 11, but the test split has 10 tokens"
    sampled = Protocol("same_targets", 6, "test", sample=5)
    assert sampled.problem(12) is None
    assert "leaves 5 tokens of context" in str(sampled.problem(10))
    assert "evaluation.targets: given 9" in str(
        Protocol("same_targets", 2, "x", sample=9).problem(12)
    )


def test_labels_tell_protocols_apart() -> None:
    several = [
        Protocol("nonoverlapping", 16, "test", stride=16),
        Protocol("nonoverlapping", 16, "validation", stride=16),
        Protocol("nonoverlapping", 16, "test", stride=16, window=8),
        Protocol("sliding", 16, "test", stride=8),
        Protocol("sliding", 16, "test", stride=16),
        Protocol("same_targets", 16, "test", sample=8),
        Protocol("same_targets", 16, "test", sample=9),
    ]
    assert len({protocol.label for protocol in several}) == len(several)
    assert several[2].label == "test-nonoverlapping-16-window8"
