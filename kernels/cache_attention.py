"""Attention of a few new queries over a key-value cache whose keys are stored before rotary embedding.

Queries see the first entries (the sinks) from another position than the others, because tokens between them may have
left. Heads are grouped and rows ragged by mask. The plain-torch definition and its Triton twin; one call is one layer.
"""

# ruff: noqa: N803 (a kernel's constants are capitals)
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .lazy import Kernel, power_of_2
from .rotary import rotary

if TYPE_CHECKING:
    import triton.language as tl

KEYS = 64  # that a program takes at a time
ROWS = 64  # queries times the heads that share a key, at most; in float32, which tensor cores do not multiply, fewer
PROGRAMS = 512  # to keep a large GPU busy: with fewer rows than that, keys are split among more


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


def cache_attention_triton(
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
    """`cache_attention` in two launches: the keys of a row are split among programs, each with a softmax of its own
    (Flash-Decoding), then their parts are joined. Blocks of keys that no query sees are not read.

    Launches depend on shapes alone, so that a CUDA graph may hold them. A query that sees nothing gets zeros.
    """
    b, n, heads, d = q.shape
    c, groups = k.shape[1:3]
    share = heads // groups
    rows = share * n
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    block_rows = min(power_of_2(rows, 16), 16 if q.dtype == torch.float32 else ROWS)
    blocks = -(-rows // block_rows)
    tiles = -(-c // KEYS)
    each = -(-tiles // min(tiles, max(PROGRAMS // (b * groups * blocks), 1)))  # tiles a program
    splits = -(-tiles // each)
    parts = torch.empty(b, groups, rows, splits, d, dtype=torch.float32, device=q.device)
    peaks, sums = torch.empty(2, b, groups, rows, splits, dtype=torch.float32, device=q.device)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    # interpreted on a CPU, products of bfloat16 come out wrong
    exact = q.dtype == torch.float32 or not q.is_cuda
    _split(
        (b * groups, splits, blocks), q, k, v, table.contiguous(), key_positions, query_positions, sink_positions,
        visible.view(torch.uint8), parts, peaks, sums, sinks, n, c, groups, share, d, d**-0.5, each, splits,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *key_positions.stride(), *query_positions.stride(),
        *sink_positions.stride(), *visible.stride(),
        ROWS=block_rows, KEYS=KEYS, HALF=power_of_2(d // 2, 16), D=power_of_2(d, 16), EXACT=exact,
        num_warps=4,
    )  # fmt: skip
    _join(
        (b * groups * rows,), parts, peaks, sums, out, n, groups, share, d, splits,
        SPLITS=power_of_2(splits), D=power_of_2(d), num_warps=4,
    )  # fmt: skip
    return out


@Kernel
def _split(  # type: ignore[no-untyped-def]
    q, k, v, table, key_positions, query_positions, sink_positions, visible, parts, peaks, sums,
    sinks, n, c, groups, share, d, scale, each, splits,
    q_b, q_n, q_h, k_b, k_c, k_g, v_b, v_c, v_g, kp_b, kp_c, qp_b, qp_n, sp_b, sp_n, see_b, see_n, see_c,
    ROWS: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """One slot and key head, the rows (head, query) of a block, and the keys of a split."""
    b, g, split = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups, tl.program_id(1)
    half = d // 2
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    at, wide = tl.arange(0, HALF), tl.arange(0, D)
    row_real, half_real = row < share * n, at < half
    query, q_real = row % n, row_real[:, None] & half_real[None, :]
    q_at = q + b * q_b + query[:, None] * q_n + (g * share + row // n)[:, None] * q_h + at[None, :]
    qa = tl.load(q_at, mask=q_real, other=0.0)
    qb = tl.load(q_at + half, mask=q_real, other=0.0)
    kind = tl.float32 if EXACT else qa.dtype
    place = tl.load(query_positions + b * qp_b + query * qp_n, mask=row_real, other=0)
    angle = table + place[:, None] * 2 * half + at[None, :]
    cos, sin = tl.load(angle, mask=q_real, other=0.0), tl.load(angle + half, mask=q_real, other=0.0)
    near_a, near_b = (qa * cos - qb * sin).to(qa.dtype).to(kind), (qb * cos + qa * sin).to(qa.dtype).to(kind)
    place = tl.load(sink_positions + b * sp_b + query * sp_n, mask=row_real, other=0)
    angle = table + place[:, None] * 2 * half + at[None, :]
    cos, sin = tl.load(angle, mask=q_real, other=0.0), tl.load(angle + half, mask=q_real, other=0.0)
    sink_a, sink_b = (qa * cos - qb * sin).to(qa.dtype).to(kind), (qb * cos + qa * sin).to(qa.dtype).to(kind)

    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    part = tl.zeros([ROWS, D], tl.float32)
    for tile in range(split * each, split * each + each):
        key = tile * KEYS + tl.arange(0, KEYS)
        key_real = key < c
        see_at = visible + b * see_b + query[:, None] * see_n + key[None, :] * see_c
        seen = tl.load(see_at, mask=row_real[:, None] & key_real[None, :], other=0) != 0
        if tl.max(tl.max(seen.to(tl.int32), 1), 0) > 0:
            k_real = key_real[:, None] & half_real[None, :]
            k_at = k + b * k_b + key[:, None] * k_c + g * k_g + at[None, :]
            ka, kb = tl.load(k_at, mask=k_real, other=0.0), tl.load(k_at + half, mask=k_real, other=0.0)
            key_place = tl.load(key_positions + b * kp_b + key * kp_c, mask=key_real, other=0)
            key_angle = table + key_place[:, None] * 2 * half + at[None, :]
            key_cos = tl.load(key_angle, mask=k_real, other=0.0)
            key_sin = tl.load(key_angle + half, mask=k_real, other=0.0)
            turned_a = tl.trans((ka * key_cos - kb * key_sin).to(ka.dtype).to(kind))
            turned_b = tl.trans((kb * key_cos + ka * key_sin).to(ka.dtype).to(kind))
            score = tl.dot(near_a, turned_a, input_precision="ieee")
            score = tl.dot(near_b, turned_b, score, input_precision="ieee")
            if tile * KEYS < sinks:
                far = tl.dot(sink_a, turned_a, input_precision="ieee")
                far = tl.dot(sink_b, turned_b, far, input_precision="ieee")
                score = tl.where((key < sinks)[None, :], far, score)
            score = tl.where(seen, score * scale, float("-inf"))
            higher = tl.maximum(peak, tl.max(score, 1))
            base = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen nothing so far
            weight, shrink = tl.exp(score - base[:, None]), tl.exp(peak - base)
            total = total * shrink + tl.sum(weight, 1)
            v_at = v + b * v_b + key[:, None] * v_c + g * v_g + wide[None, :]
            value = tl.load(v_at, mask=key_real[:, None] & (wide < d)[None, :], other=0.0)
            part = part * shrink[:, None]
            part = tl.dot(weight.to(value.dtype).to(kind), value.to(kind), part, input_precision="ieee")
            peak = higher

    to = ((b * groups + g) * share * n + row) * splits + split
    tl.store(peaks + to, peak, mask=row_real)
    tl.store(sums + to, total, mask=row_real)
    tl.store(parts + to[:, None] * d + wide[None, :], part, mask=row_real[:, None] & (wide < d)[None, :])


@Kernel
def _join(  # type: ignore[no-untyped-def]
    parts, peaks, sums, out, n, groups, share, d, splits, SPLITS: tl.constexpr, D: tl.constexpr
):
    """One row (slot, key head, head, query): its splits become one softmax."""
    row = tl.program_id(0).to(tl.int64)
    split, wide = tl.arange(0, SPLITS), tl.arange(0, D)
    split_real, wide_real = split < splits, wide < d
    peak = tl.load(peaks + row * splits + split, mask=split_real, other=float("-inf"))
    total = tl.load(sums + row * splits + split, mask=split_real, other=0.0)
    highest = tl.max(peak, 0)
    share_of = tl.exp(peak - tl.where(highest == float("-inf"), 0.0, highest))
    part_at = parts + (row * splits + split)[:, None] * d + wide[None, :]
    part = tl.load(part_at, mask=split_real[:, None] & wide_real[None, :], other=0.0)
    whole = tl.sum(total * share_of, 0)
    y = tl.sum(part * share_of[:, None], 0) / tl.where(whole == 0.0, 1.0, whole)
    query, head, slot = row % n, row // n % (groups * share), row // n // (groups * share)
    tl.store(out + ((slot * n + query) * groups * share + head) * d + wide, y, mask=wide_real)
