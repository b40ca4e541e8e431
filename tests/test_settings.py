from dataclasses import dataclass

from alibi_lm.settings import out_of_bounds, setting, unknown, walk


@dataclass
class Inner:
    rate: float = setting(0.5, "a rate", above=0, below=1)
    kinds: list[str] = setting(["a"], "kinds", choices=("a", "b"))


@dataclass
class Outer:
    size: int | None = setting(None, "a size", at_least=1)
    inner: Inner = setting(Inner, "the inner part")


def test_walk_names_every_leaf() -> None:
    found = {key: (value, field.metadata["meaning"]) for key, value, field in walk(Outer())}
    assert found == {
        "size": (None, "a size"),
        "inner.rate": (0.5, "a rate"),
        "inner.kinds": (["a"], "kinds"),
    }


def test_lists_are_not_shared() -> None:
    Inner().kinds.append("b")
    assert Inner().kinds == ["a"]


def test_bounds() -> None:
    assert out_of_bounds(Outer()) == []
    bad = Outer(size=0, inner=Inner(rate=1.0, kinds=["a", "c"]))
    assert out_of_bounds(bad) == [
        "size: given 0, but it must be at least 1",
        "inner.rate: given 1.0, but it must be below 1",
        "inner.kinds: given 'c', but it must be one of a, b",
    ]
    for rate in (0.0, float("nan"), float("inf")):
        assert len(out_of_bounds(Outer(inner=Inner(rate=rate)))) == 1


def test_unknown_suggests_the_nearest() -> None:
    assert unknown("position", "alibo", ["alibi", "t5"]) == (
        "position 'alibo' does not exist (did you mean alibi?); allowed: alibi, t5"
    )
    assert "did you mean" not in unknown("position", "zzz", ["alibi"])
