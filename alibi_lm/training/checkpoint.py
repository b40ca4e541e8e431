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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from alibi_lm.errors import UserError
from alibi_lm.machine import processes
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.progress import say

Tensors = dict[str, Tensor]
Groups = list[dict[str, Any]]  # of parameters: plain values, which JSON holds
KEPT = 2  # checkpoints: the newest, and the one before should the newest turn out damaged


@dataclass(frozen=True)
class State:
    """A training after a whole number of updates."""

    step: int  # optimizer updates completed
    tensors: Tensors  # of model and optimizer, by `state_of`
    notes: dict[str, Any]  # everything else that continues: plain values, as JSON


class Checkpoints:
    """The checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State) -> None:
        """Write a checkpoint. Once it is whole, older ones but the last go.

        Later ones go too: they are damaged, or training would have continued from them.
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
        """The newest whole checkpoint, or None; prints a warning for each damaged one."""
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
        with contextlib.suppress(OSError):  # already gone, or it holds somebody's file
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


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Tensors, Groups]:
    """Tensors of model and optimizer, whole and on the CPU, and the optimizer's parameter groups.

    Where processes share the parameters, all must call this; only rank 0 gets something.
    """
    from torch.distributed.checkpoint.state_dict import get_state_dict

    found: tuple[Any, Any] = get_state_dict(model, optimizer, options=_whole())
    weights, states = found
    tensors = {f"model.{name}": value.contiguous() for name, value in weights.items()}
    for name, kept in states.get("state", {}).items():
        tensors |= {f"optimizer.{name}.{key}": value for key, value in kept.items()}
    return tensors, states.get("param_groups", [])


def restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Tensors, groups: Groups
) -> None:
    """Put model and optimizer into the state that `state_of` returned, in all processes."""
    from torch.distributed.checkpoint.state_dict import set_state_dict

    of_model: dict[str, Any] = {}
    states: dict[str, dict[str, Tensor]] = {}
    # Sorted: the processes distribute one tensor after the other, and each has read its own file.
    for name, value in sorted(tensors.items()):
        part, _, name = name.partition(".")
        if part == "model":
            of_model[name] = value
        else:
            parameter, _, key = name.rpartition(".")
            states.setdefault(parameter, {})[key] = value
    of_optimizer: Any = {"state": states, "param_groups": groups}
    set_state_dict(
        model,
        optimizer,
        model_state_dict=of_model,
        optim_state_dict=of_optimizer,
        options=_whole(),
    )


def _whole() -> Any:
    """Options of torch's state dicts: on the CPU, and put together from the processes' shards."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=processes.world_size() > 1, cpu_offload=True)


def pack_weights(model: nn.Module) -> bytes:
    """Every parameter, as the content of a safetensors file.

    Where processes share the parameters, all must call this; only rank 0 gets something.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    weights: dict[str, Any] = get_model_state_dict(model, options=_whole())
    return save({name: weight.contiguous() for name, weight in weights.items()})


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The parameters that `pack_weights` gave; a UserError if the file cannot be read."""
    advice = "remove it to train the run again"
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(f"{path} is damaged: its checksum is another; {advice}")
        return load(content)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}; {advice}") from error


def load_weights(model: nn.Module, path: Path, part: str = "", sha256: str | None = None) -> None:
    """Read the parameters that `pack_weights` gave, into a model of the same configuration.

    part: where `model` is only a part of it, the part's name and a dot. sha256: of the content, if
    it is known. A UserError if the file cannot be read, is damaged, or does not fit.
    """
    tensors = read_weights(path, sha256)
    own = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
    try:
        model.load_state_dict(own)
    except RuntimeError as error:  # torch lists missing, surplus and misshapen tensors in lines
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not fit the run's configuration: {reason}") from error
