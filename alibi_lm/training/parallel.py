"""One model trained by several processes: each holds all of it (DDP), or a part of it (FSDP2).

Both average the gradients over the processes between the last pass of an update and the optimizer;
`update` multiplies by the number of processes, because it wants the sum over all tokens.
"""

import warnings

import torch
from torch import nn

from alibi_lm.machine import processes
from alibi_lm.model.decoder import Decoder

PARALLEL = ("ddp", "fsdp")


def share_model(model: Decoder, how: str, device: torch.device) -> nn.Module:
    """The model as the processes train it; with one process, the model itself.

    how: ddp or fsdp. All processes must hold the same weights. With fsdp, the model's parameters
    are replaced by shards of themselves.
    """
    if processes.world_size() == 1:
        return model
    if how == "ddp":
        # Nothing is broadcast: every process draws the same initial weights.
        return nn.parallel.DistributedDataParallel(model, init_sync=False)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # over half a second to import

    # The losses that the model returns are a view; nothing is ever written into them.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(device.type, (processes.world_size(),))
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)
    return model


def sync_gradients(model: nn.Module, enabled: bool) -> None:
    """Set whether the next backward pass averages gradients; only the last of an update does."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = enabled
        return
    # FSDPModule takes half a second to import; its method is enough to know it by.
    set_sync = getattr(model, "set_requires_gradient_sync", None)
    if set_sync is not None:
        set_sync(enabled)


def clip_gradients(model: nn.Module, limit: float) -> float:
    """Clip to `limit`; returns the norm before clipping, over all processes."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    return norm.item()
