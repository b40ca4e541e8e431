"""The processes that work on one model together, as torchrun starts them; without it there is one.

Rank 0 writes files and talks to the user; every other process has the same configuration and data
and does its share of each batch. A decision that hangs on what one process alone sees (time, a
signal, a file) must be made by all through these functions, or they wait for each other forever.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from alibi_lm.errors import UserError

T = TypeVar("T")


# What torchrun tells each process.
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def check() -> None:
    """A UserError if the environment says in part only that there are several processes."""
    given = {name: os.environ[name] for name in VARIABLES[:3] if os.environ.get(name)}
    said = ", ".join(f"{name}={value}" for name, value in given.items())
    advice = "start several processes with torchrun, or unset these variables to run one"
    if not all(value.isdecimal() for value in given.values()):
        raise UserError(f"the environment has {said}, which must be whole numbers; {advice}")
    if (world_size(), rank(), local_rank()) == (1, 0, 0):
        return
    absent = [name for name in VARIABLES if not os.environ.get(name)]
    if absent:
        raise UserError(f"the environment has {said}, but no {', '.join(absent)}; {advice}")
    if rank() >= world_size() or local_rank() > rank():
        raise UserError(f"the environment has {said}, which do not fit together; {advice}")


def world_size() -> int:
    """How many processes there are."""
    return _whole_number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process among all."""
    return _whole_number("RANK", 0)


def local_rank() -> int:
    """The number of this process on its machine; also that of its GPU."""
    return _whole_number("LOCAL_RANK", 0)


def _whole_number(variable: str, otherwise: int) -> int:
    given = os.environ.get(variable, "")
    return int(given) if given.isdecimal() else otherwise  # `check` refuses other words


def is_rank_zero() -> bool:
    """Whether this is the process that writes and talks."""
    return rank() == 0


def init() -> None:
    """Connect the processes, before the functions below; with one process it does nothing."""
    if world_size() > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")


def shutdown() -> None:
    """Disconnect the processes at the end."""
    if world_size() > 1 and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_sum(value: float) -> float:
    """The sum over the processes."""
    if world_size() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed.item()


def all_reduce_max(value: int) -> int:
    """The maximum over the processes."""
    if world_size() == 1:
        return value
    most = torch.tensor(value)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def all_gather(value: T) -> list[T]:
    """The value of each process, in the order of ranks."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def on_rank_zero(action: Callable[[], T]) -> T:
    """Call the action on rank 0 while the others wait; all get its result.

    An error is raised in all of them, so that none waits for one that is gone.
    """
    if world_size() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if is_rank_zero():
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    done: T = outcome[0]
    return done
