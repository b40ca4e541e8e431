"""What a reader needs to know of code, packages and hardware to judge a number."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "hydra-core", "tokenizers", "datasets", "safetensors")


COMMIT = "ALIBI_LM_COMMIT"  # environment variable: the commit, where there is no git (an image)


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """The commit of this checkout and whether tracked files differ from it; None outside git.

    Without git, the commit is what the environment variable ALIBI_LM_COMMIT says.
    """
    root = Path(__file__).resolve().parents[2]

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
