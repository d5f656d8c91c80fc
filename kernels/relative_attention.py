"""Multi-head attention with Transformer-XL relative positions over cached and new keys.

Queries are the newest T of L keys; the caller decides what each may see. This is the plain-torch definition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    bias_u: Tensor,
    bias_v: Tensor,
    mask: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(((q + u) kᵀ + (q + v) rᵀ) / √d) v, where r is the position key of each query-key distance.

    q: (B, H, T, D), the last T of the L key positions; k, v: (B, H, L, D).
    positions: (H, L + T - 1, D), the position keys of distances L - 1 down to -(T - 1) (query minus key).
    bias_u, bias_v: (H, D). mask: (B or 1, 1, T, L), added to the scores: 0 for a key that is seen, -inf for one that
    is not; every query sees at least one.
    Returns (B, H, T, D). Source: Transformer-XL, arXiv 1901.02860, section 3.3.
    """
    batch, heads, queries, width = q.shape
    # by head, the rows of all sequences at once: they share the position keys
    rows = (q + bias_v.unsqueeze(1)).transpose(0, 1).reshape(heads, batch * queries, width)
    by_distance = torch.bmm(rows, positions.transpose(1, 2)).view(heads, batch, queries, -1).transpose(0, 1)
    bias = torch.add(mask, relative_shift(by_distance, k.shape[2]), alpha=width**-0.5)
    return F.scaled_dot_product_attention(q + bias_u.unsqueeze(1), k, v, attn_mask=bias, dropout_p=dropout)


def relative_shift(by_distance: Tensor, keys: int) -> Tensor:
    """(B, H, T, L + T - 1) scores by distance -> (B, H, T, L) scores by key: out[i, j] = in[i, T - 1 - i + j]."""
    b, h, t, _ = by_distance.shape
    of_b, of_h, of_t, of_d = by_distance.stride()
    # a view: each row begins one place to the left of the row before it
    first = by_distance.storage_offset() + (t - 1) * of_d
    return by_distance.as_strided((b, h, t, keys), (of_b, of_h, of_t - of_d, of_d), first)
