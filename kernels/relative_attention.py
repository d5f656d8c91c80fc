"""Multi-head attention with Transformer-XL relative positions over cached and new keys.

Queries are the newest T of L keys; the caller decides what each may see. Plain-torch definition and Triton twin.
"""

# ruff: noqa: N803 (a kernel's constants are capitals)
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .lazy import Kernel, power_of_2

if TYPE_CHECKING:
    import triton.language as tl

ROWS, KEYS = 16, 32  # queries of a program, and keys it takes at a time


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


def relative_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    bias_u: Tensor,
    bias_v: Tensor,
    mask: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """`relative_attention` in one launch, scores never leaving the chip; with dropout, which only training has, it is
    the reference itself."""
    if dropout:
        return relative_attention(q, k, v, positions, bias_u, bias_v, mask, dropout)
    batch, heads, queries, width = q.shape
    q, k, v, positions = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, positions))
    mask = mask.expand(batch, -1, -1, -1)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if out.numel():
        _relative(
            (batch * heads, -(-queries // ROWS)), q, k, v, positions, bias_u.contiguous(), bias_v.contiguous(), mask,
            out, heads, queries, k.shape[2], width, width**-0.5, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            *positions.stride()[:2], mask.stride(0), *mask.stride()[2:],
            ROWS=ROWS, KEYS=KEYS, SPAN=2 * KEYS, D=power_of_2(width, 16),
            EXACT=q.dtype == torch.float32 or not q.is_cuda, num_warps=4,
        )  # fmt: skip
    return out


@Kernel
def _relative(  # type: ignore[no-untyped-def]
    q, k, v, positions, bias_u, bias_v, mask, out, heads, queries, keys, d, scale,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, p_h, p_t, m_b, m_t, m_k,
    ROWS: tl.constexpr, KEYS: tl.constexpr, SPAN: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Some queries of one head. SPAN: the distances that ROWS queries have to KEYS keys, or more."""
    b, h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    first = tl.program_id(1) * ROWS
    rows, at, spans = tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, SPAN)
    row = first + rows
    row_real, wide = row < queries, at < d
    q_real = row_real[:, None] & wide[None, :]
    given = tl.load(q + b * q_b + h * q_h + row[:, None] * q_t + at[None, :], mask=q_real, other=0.0)
    kind = tl.float32 if EXACT else given.dtype
    by_key = (given + tl.load(bias_u + h * d + at, mask=wide, other=0.0)[None, :]).to(given.dtype).to(kind)
    by_distance = (given + tl.load(bias_v + h * d + at, mask=wide, other=0.0)[None, :]).to(given.dtype).to(kind)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    part = tl.zeros([ROWS, D], tl.float32)
    for begin in range(0, keys, KEYS):
        key = begin + tl.arange(0, KEYS)
        key_real = (key < keys)[:, None] & wide[None, :]
        k_tile = tl.load(k + b * k_b + h * k_h + key[:, None] * k_t + at[None, :], mask=key_real, other=0.0)
        # the position keys from that of the last row and first key on; row r finds its own ROWS - 1 - r further
        place = queries - ROWS - first + begin + spans
        p_real = ((place >= 0) & (place < keys + queries - 1))[:, None] & wide[None, :]
        p_tile = tl.load(positions + h * p_h + place[:, None] * p_t + at[None, :], mask=p_real, other=0.0)
        distant = tl.dot(by_distance, tl.trans(p_tile.to(kind)), input_precision="ieee")
        shift = ROWS - 1 - rows[:, None] + tl.arange(0, KEYS)[None, :]
        score = tl.dot(by_key, tl.trans(k_tile.to(kind)), tl.gather(distant, shift, 1), input_precision="ieee")
        m_at = mask + b * m_b + row[:, None] * m_t + key[None, :] * m_k
        seen = row_real[:, None] & (key < keys)[None, :]
        score = score * scale + tl.load(m_at, mask=seen, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(peak, tl.max(score, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen nothing so far
        weight, shrink = tl.exp(score - base[:, None]), tl.exp(peak - base)
        total = total * shrink + tl.sum(weight, 1)
        v_tile = tl.load(v + b * v_b + h * v_h + key[:, None] * v_t + at[None, :], mask=key_real, other=0.0)
        part = part * shrink[:, None]
        part = tl.dot(weight.to(v_tile.dtype).to(kind), v_tile.to(kind), part, input_precision="ieee")
        peak = higher
    y = part / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out + ((b * heads + h) * queries + row[:, None]) * d + at[None, :], y, mask=q_real)
