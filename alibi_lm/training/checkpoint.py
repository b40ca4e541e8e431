"""Weights and training states on disk, as safetensors: nothing is ever unpickled.

    model.safetensors                                   the weights of a trained model
    checkpoints/step-00000120-0123456789abcdef.safetensors   weights, optimizer and where it stood

A checkpoint's name carries its step and a hash of its content, so a truncated or altered one is
recognised; the one before it is kept for that case. The tied embedding is one parameter and saved
once.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from alibi_lm.errors import UserError
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.progress import say

KEPT = 2  # checkpoints: the newest, and the one before should the newest turn out damaged


@dataclass(frozen=True)
class State:
    """A training that stands after a whole number of updates."""

    step: int  # optimizer updates completed
    tensors: dict[str, Tensor]  # of model and optimizer, by `state_of`
    notes: dict[str, Any]  # what else goes on: numbers and lists of them


class Checkpoints:
    """The checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State) -> None:
        """Write a checkpoint. Once it is whole, older ones but the last go.

        Later ones go too: they are damaged, or training would have gone on from them.
        """
        self.folder.mkdir(exist_ok=True)
        content = save(state.tensors, {"notes": json.dumps(state.notes)})
        name = f"step-{state.step:08d}-{_digest(content)}.safetensors"
        others = [path for path in self._files() if path.name != name]
        older = [path for path in others if path.name < f"step-{state.step:08d}"]
        write_atomically(self.folder / name, content)
        for path in set(others) - set(older[-(KEPT - 1) :]):
            path.unlink(missing_ok=True)

    def newest(self) -> State | None:
        """The newest that is whole; says which ones are not. None if there is none."""
        for path in reversed(self._files()):
            content = path.read_bytes()
            _, step, digest = path.stem.split("-")
            if _digest(content) == digest:
                return State(int(step), load(content), _notes(content))
            say(f"warning: {path} is damaged and not used")
        return None

    def clear(self) -> None:
        """Remove them all."""
        for path in self._files():
            path.unlink()
        with contextlib.suppress(OSError):  # gone already, or somebody keeps a file there
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*-*.safetensors"))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _notes(content: bytes) -> dict[str, Any]:
    """The notes in a safetensors file: its header's length in 8 bytes, then the header as JSON."""
    length = int.from_bytes(content[:8], "little")
    notes: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["notes"])
    return notes


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every parameter and what the optimizer knows of it, by name, whole and on the CPU.

    Where processes share the parameters among them, all must call this.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = _whole(parameter)
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = _whole(value)
    return tensors


@torch.no_grad()
def restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put model and optimizer into the state that `state_of` gave."""
    for name, parameter in model.named_parameters():
        parameter.copy_(_as(parameter, tensors[f"model.{name}"]))
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): _as(parameter, value)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }


def _whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, put together where processes hold parts of it (FSDP's DTensor)."""
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu().clone().contiguous()


def _as(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor on the parameter's device, and shared between processes as that is."""
    if value.shape == parameter.shape and hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        on_device = value.to(parameter.device)
        # Each process has read all of it and takes its part; nothing is sent.
        return distribute_tensor(
            on_device, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    return value.to(parameter.device)


def pack_weights(model: nn.Module) -> bytes:
    """Every parameter, as the content of a file.

    Where processes share the parameters among them, all must call this.
    """
    return save({name: _whole(parameter) for name, parameter in model.named_parameters()})


def load_weights(model: nn.Module, path: Path, part: str = "", sha256: str | None = None) -> None:
    """Read the parameters that `pack_weights` gave, into a model of the same configuration.

    part: where `model` is only a part of it, the part's name and a dot. sha256: of the content, if
    it is known. A UserError if the file cannot be read, is damaged, or does not fit.
    """
    advice = "remove it to train the run again"
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(f"{path} is damaged: its checksum is another; {advice}")
        tensors = load(content)
        own = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
        model.load_state_dict(own)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}; {advice}") from error
    except RuntimeError as error:  # torch lists missing, surplus and misshapen tensors in lines
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not fit the run's configuration: {reason}") from error
