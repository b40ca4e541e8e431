from alibi_lm.data.corpus import DataConfig
from alibi_lm.data.sources.stdlib import HELD_OUT_BYTES, LARGEST_HELD_OUT, load_stdlib


def test_splits_have_their_sizes_and_share_nothing() -> None:
    corpus = load_stdlib(DataConfig())
    documents = {split: list(opened()) for split, opened in corpus.splits.items()}
    assert sum(map(len, documents["train"])) > 5_000_000
    for split in ("validation", "test"):
        size = sum(len(document.encode()) for document in documents[split])
        assert HELD_OUT_BYTES <= size < HELD_OUT_BYTES + LARGEST_HELD_OUT * 1.1
    # Empty __init__ files aside, no document is in two splits.
    contents = {split: {d for d in ds if len(d) > 200} for split, ds in documents.items()}
    assert not contents["train"] & contents["validation"]
    assert not contents["train"] & contents["test"]
    assert not contents["validation"] & contents["test"]


def test_same_order_each_time() -> None:
    corpus = load_stdlib(DataConfig())
    assert list(corpus.splits["validation"]()) == list(corpus.splits["validation"]())
