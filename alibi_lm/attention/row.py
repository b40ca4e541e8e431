"""A bias by key on a CPU: the fused causal kernel reads it as a mask whose rows are all the same.

The mask is a view with stride 0, so nothing is stored and nothing copied; and it may be float32
beside 16-bit q, k and v, so the bias is not rounded. `scaled_dot_product_attention` refuses a mask
together with `is_causal`; the kernel behind it, present since torch 2.1, does not.
"""

import torch
from torch import Tensor

from alibi_lm.attention.bias import Bias

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attend_row(q: Tensor, k: Tensor, v: Tensor, bias: Bias, dropout: float) -> Tensor:
    """`attend` for a bias by key alone, which gets no gradient, without dropout."""
    assert bias.by_key is not None and not dropout
    batch, _, length, _ = q.shape
    mask = bias.by_key[None, :, None].expand(batch, -1, length, -1)  # (B, H, T, T), H x T stored
    out: Tensor = _fused(q, k, v, 0.0, True, attn_mask=mask)[0]
    return out
