"""Weights on disk, as safetensors. The tied embedding is one parameter and saved once."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from alibi_lm.errors import UserError
from alibi_lm.files import write_atomically


def save_weights(model: nn.Module, path: Path) -> None:
    """Write every parameter; the file is there only when it is whole."""
    write_atomically(path, save({k: v.cpu().contiguous() for k, v in model.state_dict().items()}))


def load_weights(model: nn.Module, path: Path, part: str = "") -> None:
    """Read the parameters that `save_weights` wrote, into a model of the same configuration.

    part: where `model` is only a part of it, the part's name and a dot.
    """
    try:
        tensors = load(path.read_bytes())
        own = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
        model.load_state_dict(own)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}; remove it to train the run again") from error
    except RuntimeError as error:  # torch lists missing, surplus and misshapen tensors in lines
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not fit the run's configuration: {reason}") from error
