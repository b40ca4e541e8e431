"""A bias by key on a CPU: the fused kernel reads it as a mask whose rows are all the same.

The mask is a view with stride 0, so nothing is stored and nothing copied; and it may be float32
beside 16-bit q, k and v, so the bias is not rounded. `scaled_dot_product_attention` refuses a mask
together with `is_causal`; the kernel behind it, present since torch 2.1, does not.

A bias by key grows with the text, and the spacing of float32 with it: the attention of a late query
would be wrong by more than that of an early one, which looks like failing to extrapolate. Queries
are therefore computed in blocks, each with the bias less that of the key in the block's middle, so
that what is near is small and exact. A block attends to its own keys and to those before it, in a
call of the kernel each; the logarithms of their sums, which it returns, put the two together.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alibi_lm.attention.bias import Bias
from alibi_lm.attention.blocks import gradients

# Queries of a block, at least: with fewer, the kernel works in smaller pieces, a fifth slower. Half
# of them, times 1/2, is the most that ALiBi's steepest of 8 heads adds within a block.
BLOCK = 768
# Up to so many keys the bias is taken as it is: exact enough, and as earlier versions computed it.
SHORT = 512

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_row(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    """`attend` for a bias by key alone, without dropout; a learned one gets its gradient."""
    assert bias.by_key is not None and not dropout
    out: Tensor = _Row.apply(q, k, v, bias.by_key)  # type: ignore[no-untyped-call]
    return out


class _Row(torch.autograd.Function):
    """Keeps for the backward pass what the kernel keeps: q, k, v, output, logarithms of sums."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, by_key: Tensor) -> Tensor:
        batch, heads, length, head_dim = q.shape
        # Laid out as the kernel lays its own, so that heads are joined without a copy.
        out = q.new_empty(batch, length, heads, head_dim).transpose(1, 2)
        log_sums = q.new_empty(batch, heads, length, dtype=torch.float32)
        for rows in _blocks(length):
            parts = [
                _forward(
                    q[:, :, rows],
                    k[:, :, keys],
                    v[:, :, keys],
                    0.0,
                    causal,
                    attn_mask=_mask(by_key, rows, keys, batch),
                )
                for keys, causal in _calls(rows)
            ]
            out[:, :, rows], log_sums[:, :, rows] = parts[0]
            if len(parts) > 1:
                (near, near_sum), (far, far_sum) = parts
                log_sums[:, :, rows] = total = torch.logaddexp(near_sum, far_sum)
                shares = [(part - total).exp()[..., None] for part in (near_sum, far_sum)]
                out[:, :, rows] = near * shares[0] + far * shares[1]
        ctx.save_for_backward(q, k, v, out, log_sums, by_key)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sums, by_key = ctx.saved_tensors
        if ctx.needs_input_grad[3]:
            # The kernel has no gradient of its mask.
            wanted, window = (False, True), q.shape[2]
            with torch.autocast("cpu", enabled=False):
                grads = gradients(q, k, v, out, None, by_key, grad_out, window, wanted)
            return (*grads[:3], grads[4])
        batch, _, length, _ = q.shape
        grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
        for rows in _blocks(length):
            for keys, causal in _calls(rows):
                # With the output and the sums of all keys, each call gives its share.
                grads = _backward(
                    grad_out[:, :, rows],
                    q[:, :, rows],
                    k[:, :, keys],
                    v[:, :, keys],
                    out[:, :, rows],
                    log_sums[:, :, rows],
                    0.0,
                    causal,
                    attn_mask=_mask(by_key, rows, keys, batch),
                )
                grad_q[:, :, rows] += grads[0]
                grad_k[:, :, keys] += grads[1]
                grad_v[:, :, keys] += grads[2]
        return *(x.to(q.dtype) for x in (grad_q, grad_k, grad_v)), None


def _blocks(length: int) -> Iterator[slice]:
    """As many blocks as there can be, of equal size."""
    size = -(-length // max(1, length // BLOCK))
    return (slice(i, min(i + size, length)) for i in range(0, length, size))


def _calls(rows: slice) -> list[tuple[slice, bool]]:
    """The keys of each call for a block of queries, and whether it is causal."""
    own, before = (rows, True), (slice(0, rows.start), False)
    return [own, before] if rows.start else [own]


def _mask(by_key: Tensor, rows: slice, keys: slice, batch: int) -> Tensor:
    """The bias as a mask of equal rows, (B, H, R, C); a row of it is stored."""
    by_key = by_key if by_key.ndim == 3 else by_key[None]
    middle = (rows.start + rows.stop) // 2 if rows.stop > SHORT else 0
    anchored = (by_key[..., keys] - by_key[..., middle : middle + 1]).float()
    return anchored[:, :, None].expand(batch, -1, rows.stop - rows.start, -1)
