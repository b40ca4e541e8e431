"""The processes that work on one model together, as torchrun starts them. Without it there is one.

The first writes files and talks to the user; every other has the same configuration and data and
does its share of each batch.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this one is."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Which of those on this machine it is; also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_first() -> bool:
    """Whether this is the one that writes."""
    return rank() == 0


def join() -> None:
    """Meet the others; needed before anything below, and does nothing where there are none."""
    if count() > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")


def leave() -> None:
    """Part from the others at the end."""
    if count() > 1 and dist.is_initialized():
        dist.destroy_process_group()


def total(value: float) -> float:
    """The sum of what the processes give, in all of them."""
    if count() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed.item()


def largest(value: int) -> int:
    """The largest of what the processes give, in all of them."""
    if count() == 1:
        return value
    most = torch.tensor(value)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def all_of(value: T) -> list[T]:
    """What each process gives, in the order of ranks, in all of them."""
    if count() == 1:
        return [value]
    gathered: list[Any] = [None] * count()
    dist.all_gather_object(gathered, value)
    return gathered


def by_first(action: Callable[[], T]) -> T:
    """What the action gives, done by the first process alone while the others wait for it.

    An error is raised in all of them, so that none waits for one that is gone.
    """
    if count() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    done: T = outcome[0]
    return done
