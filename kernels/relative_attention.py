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
    visible: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(((q + u) kᵀ + (q + v) rᵀ) / √d) v, where r is the position key of each query-key distance.

    q: (B, H, T, D), the last T of the L key positions; k, v: (B, H, L, D).
    positions: (H, L + T - 1, D), the position keys of distances L - 1 down to -(T - 1) (query minus key).
    bias_u, bias_v: (H, D). visible: (B or 1, 1, T, L) bool, at least one true in every row.
    Returns (B, H, T, D). Source: Transformer-XL, arXiv 1901.02860, section 3.3.
    """
    batch, queries, keys = q.shape[0], q.shape[2], k.shape[2]
    # by head, the rows of all sequences at once: they share the position keys
    rows = (q + bias_v[:, None]).transpose(0, 1).flatten(1, 2)
    by_distance = torch.matmul(rows, positions.transpose(-1, -2)).unflatten(1, (batch, queries)).transpose(0, 1)
    scores = relative_shift(by_distance, keys) * q.shape[-1] ** -0.5
    bias = torch.where(visible, scores, float("-inf"))
    return F.scaled_dot_product_attention(q + bias_u[:, None], k, v, attn_mask=bias, dropout_p=dropout)


def relative_shift(by_distance: Tensor, keys: int) -> Tensor:
    """(B, H, T, L + T - 1) scores by distance -> (B, H, T, L) scores by key: out[i, j] = in[i, T - 1 - i + j]."""
    b, h, t, d = by_distance.shape
    if t == 1:
        return by_distance
    # dropping the first T - 1 of the flattened scores and reading rows one shorter moves each row one step left
    return by_distance.flatten(2)[..., t - 1 : t * d - 1].reshape(b, h, t, d - 1)[..., :keys]
