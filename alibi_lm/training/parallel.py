"""One model trained by several processes: each holds it whole (DDP), or a part of it (FSDP2).

Both sum gradients over the processes between the last pass of an update and the optimizer. They
average, where we want the sum over all tokens: `update` multiplies by the count of processes.
"""

import warnings

import torch
from torch import Tensor, nn

from alibi_lm.machine import processes
from alibi_lm.model.decoder import Decoder


def share_model(model: Decoder, how: str, device: torch.device) -> nn.Module:
    """The model as the processes train it; the model itself where there is only one process.

    how: ddp or fsdp. All processes must hold the same weights. With fsdp, the model's parameters
    are replaced by shards of themselves.
    """
    if processes.count() == 1:
        return model
    if how == "ddp":
        # Nothing is broadcast: every process draws the same initial weights.
        return nn.parallel.DistributedDataParallel(model, init_sync=False)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # over half a second to import

    # The losses that the model gives are a view; nothing is ever written into them.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(device.type, (processes.count(),))
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)
    return model


def sum_gradients(model: nn.Module, in_next_pass: bool) -> None:
    """Say whether the next pass sums gradients over the processes; only the last of an update does.

    A single process has nothing to sum.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = in_next_pass
    elif processes.count() > 1:
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(in_next_pass)


def share_rows(rows: Tensor) -> Tensor:
    """Of an update's sequences the process's own. (B, T) -> (B / processes, T)."""
    return rows.chunk(processes.count())[processes.rank()]


def gradient_norm(model: nn.Module, limit: float, factor: float = 1.0) -> float:
    """The norm of the gradient over all processes; then it is scaled down to the limit.

    factor: what the gradients are too large by, and are divided by first.
    """
    if factor != 1.0:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(factor)
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    return norm.item()
