from hypothesis import given
from hypothesis import strategies as st

from alibi_lm.evaluation.protocols import (
    PROTOCOLS,
    Measurement,
    Nonoverlapping,
    Protocol,
    SameTargets,
    Sliding,
)


@st.composite
def protocols(draw: st.DrawFn) -> tuple[Protocol, int]:
    n = draw(st.integers(4, 300))
    length = draw(st.integers(1, n // 2))
    name = draw(st.sampled_from(["nonoverlapping", "sliding", "same_targets"]))
    if name == "same_targets":
        sample = draw(st.integers(1, n - n // 2))
        return SameTargets(length, sample=sample), n
    stride = length if name == "nonoverlapping" else draw(st.integers(1, length))
    return PROTOCOLS[name](length, stride=stride), n


@given(protocols())
def test_contexts_are_those_of_the_spans_in_the_order_of_the_losses(
    case: tuple[Protocol, int],
) -> None:
    protocol, n = case
    assert protocol.unfit(n, "test") is None
    contexts = protocol.contexts(n)
    assert len(contexts) == protocol.n_scored(n)
    assert contexts.min() >= 1
    assert contexts.max() <= protocol.length
    if protocol.name == "same_targets":
        assert set(contexts.tolist()) == {protocol.length}
    if protocol.name == "sliding":
        assert protocol.stride is not None
        late = contexts[protocol.length :]  # the text's start has less to offer
        assert (late > protocol.length - protocol.stride).all()
    # Progress counts what is read, but for the spans that the text's ends cut short.
    start, _, stop = protocol.spans(n).T
    read = (stop - start).sum()
    assert read <= protocol.n_read(n)


def test_contexts_by_hand() -> None:
    assert Nonoverlapping(3, stride=3).contexts(7).tolist() == [
        1, 2, 3, 1, 2, 3, 1,
    ]  # fmt: skip
    assert Sliding(3, stride=1).contexts(5).tolist() == [1, 2, 3, 3, 3]


def test_what_cannot_be() -> None:
    blocks = Nonoverlapping(11, stride=11)
    assert blocks.unfit(11, "test") is None
    told = blocks.unfit(10, "test")
    assert told == "evaluation.lengths: given 11, but the test split has 10 tokens"
    sampled = SameTargets(6, sample=5)
    assert sampled.unfit(12, "test") is None
    assert "leaves 5 tokens of context" in str(sampled.unfit(10, "test"))
    assert "evaluation.targets: given 9" in str(SameTargets(2, sample=9).unfit(12, "x"))


def test_labels_tell_measurements_apart() -> None:
    blocks = Nonoverlapping(16, stride=16)
    several = [
        Measurement(blocks, "test", "aaaaaaaa", "float32"),
        Measurement(blocks, "validation", "aaaaaaaa", "float32"),
        Measurement(blocks, "test", "aaaaaaaa", "float32", window=8),
        Measurement(blocks, "test", "aaaaaaaa", "bfloat16"),
        Measurement(blocks, "test", "bbbbbbbb", "float32"),
        Measurement(blocks, "test", "aaaaaaaa", "float32", changes="backend=blocks"),
        Measurement(Sliding(16, stride=8), "test", "aaaaaaaa", "float32"),
        Measurement(Sliding(16, stride=16), "test", "aaaaaaaa", "float32"),
        Measurement(SameTargets(16, sample=8), "test", "aaaaaaaa", "float32"),
        Measurement(SameTargets(16, sample=9), "test", "aaaaaaaa", "float32"),
    ]
    assert len({measurement.label for measurement in several}) == len(several)
    assert several[2].label == "test-nonoverlapping-window8-16-aaaaaaaa"
