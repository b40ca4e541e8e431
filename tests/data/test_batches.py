import numpy as np
import pytest

from alibi_lm.data.batches import Batches
from alibi_lm.data.tokens import Split
from alibi_lm.errors import UserError


def split(n: int) -> Split:
    return Split(np.arange(n + 1, dtype=np.uint16), words=n, bytes=n, lost=0.0)


def test_targets_are_inputs_one_later() -> None:
    inputs, targets = Batches(split(100), length=8, sequences=3, seed=0)[0]
    assert inputs.shape == targets.shape == (3, 8)
    np.testing.assert_array_equal(inputs + 1, targets)


def test_an_epoch_visits_every_block_once() -> None:
    batches = Batches(split(100), length=8, sequences=3, seed=0)
    assert batches.n_blocks == 12
    for epoch in range(3):
        starts = [int(x[0]) for step in range(4) for x in batches[epoch * 4 + step][0]]
        assert sorted(starts) == list(range(0, 96, 8))


def test_pure_function_of_seed_and_step() -> None:
    first = Batches(split(1000), length=8, sequences=4, seed=7)
    second = Batches(split(1000), length=8, sequences=4, seed=7)
    wanted = [first[step] for step in range(80)]
    for step in reversed(range(80)):
        np.testing.assert_array_equal(second[step], wanted[step])
    other = Batches(split(1000), length=8, sequences=4, seed=8)
    assert not np.array_equal(other[0], wanted[0])


def test_a_batch_may_be_larger_than_an_epoch() -> None:
    inputs, _ = Batches(split(20), length=8, sequences=5, seed=0)[0]
    assert inputs.shape == (5, 8)


def test_too_little_text() -> None:
    with pytest.raises(UserError, match="train_length: given 21"):
        Batches(split(20), length=21, sequences=1, seed=0)
