"""The machine that a run is on: its device, its memory allocator, and how to name it in a row."""

import ctypes
import functools
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alibi_lm import processes
from alibi_lm.errors import UserError

# What plain RuntimeErrors say where torch has no class for it: CPU, C++, CUDA, cuBLAS.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "out of memory", "STATUS_ALLOC_FAILED")
PACKAGES = ("torch", "numpy", "hydra-core", "tokenizers", "datasets", "safetensors")
COMMIT = "ALIBI_LM_COMMIT"  # environment variable: the commit, where there is no git (an image)


def resolve_device(name: str) -> torch.device:
    """The device to run on; `auto` prefers a GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: given cuda, but torch sees no GPU; use device=cpu or device=auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.count() > 1:
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

    By default it goes on uncompiled after eight, so that a row would say what was not so.
    """
    torch._dynamo.config.recompile_limit = 1024
    torch._dynamo.config.accumulated_recompile_limit = 4096
    torch._dynamo.config.fail_on_recompile_limit_hit = True


@dataclass(frozen=True)
class DataSheet:
    """What is promised of a GPU: dense products per second without sparsity, and memory."""

    narrow: float  # in 16 bits; of the V100 float16 alone
    float32: float  # without TF32
    memory: float  # bytes

    def flops(self, dtype: str) -> float:
        """Products per second in a dtype."""
        return self.float32 if dtype == "float32" else self.narrow


DATA_SHEETS = {
    "H200 NVL": DataSheet(835e12, 60e12, 141e9),
    "H200": DataSheet(989e12, 67e12, 141e9),
    "H100 NVL": DataSheet(835e12, 60e12, 94e9),
    "H100 PCIe": DataSheet(756e12, 51e12, 80e9),
    "H100": DataSheet(989e12, 67e12, 80e9),
    "A100": DataSheet(312e12, 19.5e12, 80e9),
    "V100": DataSheet(125e12, 15.7e12, 32e9),
}


def peak_flops(device: torch.device, dtype: str) -> tuple[float, str] | None:
    """What a GPU's data sheet promises in a dtype, and whose; None if none is listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if "MIG" in name:  # a slice of a card
        return None
    listed = next((words for words in DATA_SHEETS if all(w in name for w in words.split())), None)
    return (DATA_SHEETS[listed].flops(dtype), f"data sheet of the {listed}") if listed else None


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Matrix products in `dtype`, everything delicate in float32."""
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")


def keep_freed_memory() -> None:
    """Let the C library keep blocks up to 64 MiB that are freed, not return them to the system.

    Every step allocates and frees the same tensors. Blocks of 32 MiB and more (the logits, mostly)
    glibc maps anew each time, and the kernel clears their pages again and again: a step of the tiny
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


def commit() -> tuple[str | None, bool | None]:
    """The commit of this checkout and whether tracked files differ from it; None outside git.

    Without git, the commit is what the environment variable ALIBI_LM_COMMIT says.
    """
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT) or None, None


def environment(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge or repeat a measurement."""
    head, dirty = commit()
    return {
        "commit": head,
        "dirty": dirty,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What of two environments is not the same, each as `key: there, here`."""
    return [
        f"{key}: {there.get(key)}, {value}"
        for key, value in here.items()
        if value != there.get(key)
    ]


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def available_memory(device: torch.device) -> float:
    """Bytes of the device that are free now, as far as the system or its container says."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return min(_kibibytes("/proc/meminfo", "MemAvailable"), _left_in_cgroup())
    except (OSError, StopIteration):
        return math.inf
