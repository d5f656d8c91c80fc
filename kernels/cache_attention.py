"""Attention of a few new queries over a key-value cache whose keys are stored before rotary embedding.

Queries see the first entries (the sinks) from another position than the others, because tokens between them may have
left. Heads are grouped and rows ragged by mask. This is the plain-torch definition; one call is one layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rotary import rotary


def cache_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    key_positions: Tensor,
    query_positions: Tensor,
    sink_positions: Tensor,
    visible: Tensor,
    sinks: int,
) -> Tensor:
    """softmax(R(q) R(k)ᵀ / √D) v, where R turns by position and the first `sinks` keys meet q at its sink position.

    q: (B, n, heads, D); k, v: (B, C, kv_heads, D), heads a multiple of kv_heads, neither q nor k rotated.
    table: (P, 2, D / 2) of `rotary_table`; key_positions: (B, C); query_positions, sink_positions: (B, n); int64.
    visible: (B, n, C) bool; a query that sees nothing (padding) gets something finite. Returns (B, n, heads, D).
    Softmax in float32, or float64 for float64. Source: StreamingLLM, arXiv 2309.17453, section 3.2.
    """
    b, n, heads, d = q.shape
    groups = k.shape[2]
    keys = rotary(k, table, key_positions).permute(0, 2, 3, 1)  # (B, kv_heads, D, C)

    def scores(positions: Tensor, keys: Tensor) -> Tensor:
        turned = rotary(q, table, positions).reshape(b, n, groups, heads // groups, d)
        return turned.permute(0, 2, 3, 1, 4).reshape(b, groups, -1, d) @ keys  # (B, kv_heads, heads / kv_heads · n, C)

    all_scores = torch.cat((scores(sink_positions, keys[..., :sinks]), scores(query_positions, keys[..., sinks:])), -1)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    masked = all_scores.to(wide).mul(d**-0.5).reshape(b, groups, -1, n, k.shape[1])
    masked = masked.masked_fill(~visible[:, None, None], torch.finfo(wide).min)
    weights = masked.softmax(-1).to(v.dtype).reshape(b, groups, -1, k.shape[1])
    out = (weights @ v.permute(0, 2, 1, 3)).reshape(b, groups, heads // groups, n, d)
    return out.permute(0, 3, 1, 2, 4).reshape(b, n, heads, d)
