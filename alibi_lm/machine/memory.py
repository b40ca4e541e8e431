"""The machine's memory: keep what is freed, fail when it runs out, say how much is left."""

import ctypes
import functools
import math
import sys
from pathlib import Path

import torch

# What plain RuntimeErrors say where torch has no class for it: CPU, C++, CUDA, cuBLAS.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "out of memory", "STATUS_ALLOC_FAILED")


def prepare_memory(device: torch.device) -> None:
    """What the process needs before a model runs: `keep_freed_memory`, and the limit of a CPU."""
    keep_freed_memory()
    if device.type == "cpu":
        fail_when_memory_runs_out()


def keep_freed_memory() -> None:
    """Let the C library keep blocks up to 64 MiB that are freed, not return them to the system.

    Every step allocates and frees the same tensors. Blocks of 32 MiB and more (the logits, mostly)
    glibc maps each time, and the kernel clears their pages again and again: a step of the tiny
    model over 4,096 tokens and a vocabulary of 2,048 then takes 1.2 times as long, evaluation 1.3.
    Still larger blocks are let go: at length 16,384 each would leave a hole that no other fills.
    Has no effect where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        if libc.mallopt(mmap_threshold, 64 << 20) or libc.mallopt(mmap_threshold, 32 << 20):
            libc.mallopt(trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        return


@functools.cache
def fail_when_memory_runs_out() -> None:
    """Let an allocation beyond the machine's memory fail, which can be caught and reported.

    Linux promises more memory than there is and kills who uses it. A limit on the process's data,
    at what it holds plus what is available now (to the machine, or to its container), turns that
    into an error, from now until the process ends. Elsewhere: no effect.
    """
    if sys.platform != "linux":
        return
    import resource

    try:
        held = _kibibytes("/proc/self/status", "VmData")
        available = min(_kibibytes("/proc/meminfo", "MemAvailable"), _left_in_cgroup())
        limit = held + int(0.97 * available)  # what is held may not all be in use yet
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        others = [x for x in (soft, hard) if x != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([limit, *others]), hard))
    except (OSError, ValueError, StopIteration):
        return


def _kibibytes(file: str, key: str) -> int:
    """The `key: N kB` of a file of /proc, in bytes."""
    lines = Path(file).read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def _left_in_cgroup() -> float:
    """Bytes that the process's control group may still use; infinite where it has no limit."""
    root = Path("/sys/fs/cgroup")
    second, first = ("memory.max", "memory.current"), ("limit_in_bytes", "usage_in_bytes")
    for limit, usage in (second, [f"memory/memory.{name}" for name in first]):
        if (root / limit).exists() and (most := (root / limit).read_text().strip()).isdigit():
            return int(most) - int((root / usage).read_text())
    return math.inf


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def available_memory(device: torch.device) -> float:
    """Bytes of the device that are free now, as far as the system or its container says."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return min(_kibibytes("/proc/meminfo", "MemAvailable"), _left_in_cgroup())
    except (OSError, StopIteration):
        return math.inf
