"""A bias by distance or key: a block of queries at a time, against the keys that it may see.

The rows of a bias by distance are one vector, each a place further on than the next: read in
reverse order, they are a view of it with both strides 1, which the fused kernel of a CPU takes as
its mask. Nothing of the size of length x length is stored, in either direction: the backward pass
recomputes the attention of each block, with a few tensors of H x block x T, and the gradient of
a bias by distance is the sum along the anti-diagonals of one of them, again by a view.

With dropout, which fused kernels of a CPU have not, the forward pass works like the backward pass;
what is dropped is drawn again from the same seed.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from alibi_lm.attention.bias import Bias

# Queries of a block. The fused kernel reads keys and values once for each, so at 16,384 keys half
# as many take 1.4 times as long; the backward pass, in plain products, wants its tensors in cache.
FORWARD_BLOCK = 256
BACKWARD_BLOCK = 128
ELEMENTS = 2**21  # of each such tensor in the backward pass: 8 MiB, about a cache


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    """`attend` for a bias by distance, by key, and a window; learned ones get their gradients."""
    window = bias.window or q.shape[2]
    # From the generator of the CPU, whose state checkpointing restores, without waiting for a GPU.
    seed = int(torch.randint(2**62, ()).item()) if dropout else 0
    out: Tensor = _Blocks.apply(  # type: ignore[no-untyped-call]
        q, k, v, bias.by_distance, bias.by_key, window, dropout, seed
    )
    return out


class _Blocks(torch.autograd.Function):
    """Keeps for the backward pass what a fused kernel keeps: q, k, v and the output."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        by_distance: Tensor | None,
        by_key: Tensor | None,
        window: int,
        dropout: float,
        seed: int,
    ) -> Tensor:
        batch, heads, length, head_dim = q.shape
        ctx.window, ctx.dropout, ctx.seed = window, dropout, seed
        if dropout:
            out = _forward_with_dropout(ctx, q, k, v, by_distance, by_key)
            ctx.save_for_backward(q, k, v, out, by_distance, by_key)
            return out
        rows = _Rows(by_distance, by_key, window, length, FORWARD_BLOCK, q.device)
        # Laid out as the fused kernels lay theirs, so that heads are joined without a copy.
        out = q.new_empty(batch, length, heads, head_dim).transpose(1, 2)
        for start, stop, first in _blocks(length, window, FORWARD_BLOCK):
            block = _attend_block(
                q[:, :, start:stop].flip(2),
                k[:, :, first:stop],
                v[:, :, first:stop],
                *rows.reversed(start, stop, first),
            )
            out[:, :, start:stop] = block.flip(2)
        ctx.save_for_backward(q, k, v, out, by_distance, by_key)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, by_distance, by_key = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:5]
        how = ctx.window, wanted, ctx.dropout, ctx.seed
        with torch.autocast(q.device.type, enabled=False):
            found = gradients(q, k, v, out, by_distance, by_key, grad_out, *how)
        return (*found, None, None, None)


def _forward_with_dropout(
    ctx: Any, q: Tensor, k: Tensor, v: Tensor, by_distance: Tensor | None, by_key: Tensor | None
) -> Tensor:
    """In the blocks of the backward pass, so that both drop the same."""
    length, head_dim = q.shape[2:]
    rows = _Rows(by_distance, by_key, ctx.window, length, BACKWARD_BLOCK, q.device)
    queries = (q.float() * head_dim**-0.5).flatten(0, 1)  # (N, T, K)
    keys, values = k.float().flatten(0, 1), v.float().flatten(0, 1)
    out = torch.empty_like(values)
    for n in _sequences(q.shape, ctx.window):
        for start, stop, first in _blocks(length, ctx.window, BACKWARD_BLOCK):
            block = rows.reversed(start, stop, first, n)
            attention = _attention(queries[n, start:stop].flip(1), keys[n, first:stop], *block)
            attention *= _kept(attention, ctx.dropout, ctx.seed, n, start)
            out[n, start:stop] = (attention @ values[n, first:stop]).flip(1)
    return out.view(v.shape).to(v.dtype)


def _kept(attention: Tensor, dropout: float, seed: int, n: slice, start: int) -> Tensor:
    """What a block's attention is multiplied by: zero, or what makes up for the zeros."""
    generator = torch.Generator(attention.device).manual_seed(hash((seed, n.start, start)))
    kept = torch.empty_like(attention).bernoulli_(1 - dropout, generator=generator)
    return kept.div_(1 - dropout)


def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    by_distance: Tensor | None,
    by_key: Tensor | None,
    grad_out: Tensor,
    window: int,
    wanted: tuple[bool, bool],
    dropout: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v and, where wanted, of by_distance and by_key.

    Of attention that gave `out`, whichever backend computed it; in float32 until the last. To be
    called outside of autocast.
    """
    batch, heads, length, head_dim = q.shape
    rows = _Rows(by_distance, by_key, window, length, BACKWARD_BLOCK, q.device)
    by_distance_grad = by_key_grad = None
    if wanted[0]:
        by_distance_grad = rows.vector.new_zeros(heads, length + BACKWARD_BLOCK)
    if wanted[1]:
        assert by_key is not None
        by_key_grad = torch.zeros_like(by_key, dtype=torch.float32)
    # The gradient of a logit is attention * (grad_out . v - grad_out . out): one more
    # coordinate, and the product with v gives the difference.
    grad_dot_out = (grad_out.float() * out.float()).sum(-1, keepdim=True)
    # Sequences and heads are one dimension, N, for batched products that add in place.
    grads = torch.cat([grad_out.float(), -grad_dot_out], -1).flatten(0, 1)  # (N, T, K + 1)
    values = F.pad(v.float(), (0, 1), value=1.0).flatten(0, 1)
    queries = (q.float() * head_dim**-0.5).flatten(0, 1)  # (N, T, K)
    keys = k.float().flatten(0, 1).contiguous()
    grad_q, grad_k, grad_v = (torch.zeros_like(x) for x in (queries, keys, values))

    def add_block(n: slice, start: int, stop: int, first: int) -> None:
        """Add what a block of queries gives."""
        q_block = queries[n, start:stop].flip(1)
        grad_block = grads[n, start:stop].flip(1)
        k_seen, v_seen = keys[n, first:stop], values[n, first:stop]
        attention = _attention(q_block, k_seen, *rows.reversed(start, stop, first, n))
        if dropout:
            kept = _kept(attention, dropout, seed, n, start)
            grad_v[n, first:stop].baddbmm_((attention * kept).mT, grad_block)
            grad_logits = (grad_block[..., :-1] @ v_seen[..., :-1].mT).mul_(kept)
            grad_logits.add_(grad_block[..., -1:]).mul_(attention)
        else:
            grad_v[n, first:stop].baddbmm_(attention.mT, grad_block)
            grad_logits = (grad_block @ v_seen.mT).mul_(attention)  # (N, R, columns)
        del attention
        grad_k[n, first:stop].baddbmm_(grad_logits.mT, q_block)
        grad_q[n, start:stop] = (grad_logits @ k_seen).flip(1)
        by_sequence = grad_logits.view(-1, heads, stop - start, stop - first)
        if by_key_grad is not None:
            # Less the sums of the queries, which are 0 but for rounding: without them a gate, whose
            # gradient is a sum over all keys before it, would gather the rounding of the text.
            by_keys, by_queries = by_sequence.sum(2), by_sequence.sum(3).flip(-1)
            of = by_key_grad[_batch(n, heads)] if by_key_grad.ndim == 3 else by_key_grad
            if by_key_grad.ndim == 2:
                by_keys, by_queries = by_keys.sum(0), by_queries.sum(0)
            of[..., first:stop] += by_keys
            of[..., start:stop] -= by_queries
        if by_distance_grad is not None:
            # The sum over sequences, with zeros after each row as the antidiagonals want it.
            summed = grads.new_zeros(heads, stop - start, stop - first + stop - start)
            torch.sum(by_sequence, 0, out=summed[..., : stop - first])
            del by_sequence, grad_logits
            diagonals = _sum_of_antidiagonals(summed)
            at = length - stop + first
            by_distance_grad[:, at : at + diagonals.shape[1]] += diagonals

    for n in _sequences(q.shape, window):
        for start, stop, first in _blocks(length, window, BACKWARD_BLOCK):
            add_block(n, start, stop, first)
    if by_distance_grad is not None:
        by_distance_grad = by_distance_grad[:, :length].flip(-1)

    def narrow(x: Tensor, like: Tensor) -> Tensor:
        return x.view(batch, heads, length, -1)[..., :head_dim].to(like.dtype)

    grad_q *= head_dim**-0.5
    grads_qkv = narrow(grad_q, q), narrow(grad_k, k), narrow(grad_v, v)
    if by_key_grad is not None and by_key is not None:
        by_key_grad = by_key_grad.to(by_key.dtype)
    return (*grads_qkv, by_distance_grad, by_key_grad)


def _sequences(shape: torch.Size, window: int) -> Iterator[slice]:
    """As many sequences, with their heads, as are computed at once. shape: (B, H, T, K)."""
    batch, heads, length, _ = shape
    columns = min(length, window + BACKWARD_BLOCK)
    at_once = heads * max(1, ELEMENTS // (heads * BACKWARD_BLOCK * columns))
    return (slice(i, i + at_once) for i in range(0, batch * heads, at_once))


def _batch(n: slice, heads: int) -> slice:
    """The sequences whose heads n holds."""
    return slice(n.start // heads, n.stop // heads)


def _blocks(length: int, window: int, size: int) -> Iterator[tuple[int, int, int]]:
    """First query, query after the last, and first key that they see, of each block."""
    for start in range(0, length, size):
        yield start, min(start + size, length), max(0, start - window + 1)


class _Rows:
    """The bias of a block of queries in reverse order: by distance, which is a view, and by key."""

    def __init__(
        self,
        by_distance: Tensor | None,
        by_key: Tensor | None,
        window: int,
        length: int,
        block: int,
        device: torch.device,
    ) -> None:
        self.length = length
        self.by_key = by_key
        # Column x stands for distance length - 1 - x; beyond distance 0 lies the future.
        f = torch.zeros(1, length, device=device) if by_distance is None else by_distance.float()
        too_far = torch.arange(length, device=device) >= window
        future = f.new_full((f.shape[0], block), -math.inf)
        self.vector = torch.cat([f.masked_fill(too_far, -math.inf).flip(-1), future], dim=-1)

    def reversed(
        self, start: int, stop: int, first: int, n: slice | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Queries stop - 1 down to start, keys first to stop - 1; n: of these sequences alone.

        (1, H or 1, R, columns) and (B or 1, H, 1, columns) or None, float32, to be added.
        """
        # Of query stop - 1 - r and key first + c, x is length - stop + first + r + c.
        vector = self.vector[:, self.length - stop + first :]
        rows = vector.unfold(-1, stop - first, 1)[None, :, : stop - start]
        if self.by_key is None:
            return rows, None
        by_key = self.by_key if self.by_key.ndim == 3 else self.by_key[None]
        if n is not None and self.by_key.ndim == 3:
            by_key = by_key[_batch(n, by_key.shape[1])]
        # Softmax ignores the bias of one key; that of a near one leaves small, exact numbers.
        keys = by_key[..., first:stop] - by_key[..., start : start + 1]
        return rows, keys[:, :, None].float()


def _attend_block(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, keys: Tensor | None) -> Tensor:
    """Queries against the keys that they see. q: (B, H, R, K); k, v: (B, H, columns, K)."""
    if q.device.type == "cpu":  # whose kernel reads a view, and float32 beside 16 bits
        mask = rows if keys is None else rows + keys
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scaled = q.float() * q.shape[-1] ** -0.5
    attention = _attention(scaled.flatten(0, 1), k.float().flatten(0, 1), rows, keys)
    return (attention @ v.float().flatten(0, 1)).view(q.shape).to(q.dtype)


def _attention(q: Tensor, k: Tensor, rows: Tensor, keys: Tensor | None) -> Tensor:
    """softmax(q k^T + rows + keys) of scaled queries. q: (N, R, K); k: (N, columns, K).

    rows, keys: see _Rows.reversed.
    """
    logits = q.new_empty(q.shape[0], q.shape[1], k.shape[1])
    if keys is None:
        logits.view(-1, rows.shape[1], *logits.shape[1:]).copy_(rows)
    else:
        by_head = logits.view(-1, keys.shape[1], *logits.shape[1:])
        torch.add(rows, keys.expand(len(by_head), -1, -1, -1), out=by_head)
    torch.softmax(logits.baddbmm_(q, k.mT), dim=-1, out=logits)
    return logits


def _sum_of_antidiagonals(x: Tensor) -> Tensor:
    """The sum of x[:, r, c] over r + c = s. (H, R, C + R), the last R zero -> (H, C + R - 1)."""
    rows, columns = x.shape[1:]
    # Row r, read at a pitch one shorter, has moved r places right.
    skewed = x.flatten(1)[:, : rows * (columns - 1)].view(len(x), rows, columns - 1)
    return skewed.sum(1)
