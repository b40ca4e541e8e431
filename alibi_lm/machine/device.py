"""The device that a run is on, and how torch computes there."""

import functools
import os
from contextlib import AbstractContextManager
from typing import Any

import torch

from alibi_lm.errors import UserError
from alibi_lm.machine import processes


@functools.cache
def resolve_device(name: str) -> torch.device:
    """The device to run on; `auto` prefers a GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: given cuda, but torch sees no GPU; use device=cpu or device=auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.world_size() > 1:
        torch.cuda.set_device(processes.local_rank())
        return torch.device("cuda", processes.local_rank())
    return torch.device(name)


def be_deterministic(wanted: bool | None, device: torch.device) -> bool:
    """Have torch use only operations that give the same numbers on each run; whether it does.

    wanted: None for yes on a CPU, no on a GPU, where they cost more. An operation that has no such
    form fails and says so.
    """
    on = device.type == "cpu" if wanted is None else wanted
    if on:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As torch.use_deterministic_algorithms does, without its second of importing the compiler.
    torch.set_deterministic_debug_mode("error" if on else "default")
    # Filling what is not yet written finds bugs, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return on


def compile_every_shape() -> None:
    """Let torch.compile make a kernel for each length, or fail.

    By default it continues uncompiled after eight, and a row would say otherwise.
    """
    torch._dynamo.config.recompile_limit = 1024
    torch._dynamo.config.accumulated_recompile_limit = 4096
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Matrix products in `dtype`, everything delicate in float32."""
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")
