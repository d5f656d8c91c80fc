"""Rotary position embedding (RoFormer, arXiv 2104.09864) in the half-split layout of Llama and Qwen: the plain-torch
definition and its Triton twin. Angles come as a table, one row a position, so that whoever owns the frequencies
computes it once.
"""

# ruff: noqa: N803 (a kernel's constants are capitals)
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .lazy import Kernel, in_rows, power_of_2, warps

if TYPE_CHECKING:
    import triton.language as tl


def rotary_table(frequencies: Tensor, positions: int) -> Tensor:
    """(positions, 2, D / 2): cosines and sines of position · frequency. frequencies: (D / 2,) radians a
    token. Computed in float64 and returned in float64: positions in the thousands lose digits in float32."""
    angles = torch.arange(positions, dtype=torch.float64, device=frequencies.device)[:, None] * frequencies.double()
    return torch.stack((angles.cos(), angles.sin()), dim=1)


def rotary(x: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D / 2]) by its angle. x: (..., heads, D); positions: (...,) int64 rows of the table;
    table: (P, 2, D / 2). Computed in the wider of both dtypes, returned in x's."""
    cos, sin = table[positions].unsqueeze(-3).unbind(-2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def rotary_triton(x: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """`rotary` in one launch, a program a head; computed in float32."""
    rows = in_rows(x)
    n, heads, width = rows.shape
    places = positions.expand(x.shape[:-2]).reshape(-1)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    block = power_of_2(width // 2)
    if out.numel():
        _rotary(
            (n, heads), rows, table.contiguous(), places, out, width // 2, rows.stride(0), rows.stride(1),
            BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
    return out


@Kernel
def _rotary(x, table, places, out, half, of_row, of_head, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, head, at = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BLOCK)
    real = at < half
    angle = table + tl.load(places + row) * 2 * half + at
    cos = tl.load(angle, mask=real, other=0.0).to(tl.float32)
    sin = tl.load(angle + half, mask=real, other=0.0).to(tl.float32)
    first = x + row * of_row + head * of_head + at
    a = tl.load(first, mask=real, other=0.0).to(tl.float32)
    b = tl.load(first + half, mask=real, other=0.0).to(tl.float32)
    to = out + (row * tl.num_programs(1) + head) * 2 * half + at
    tl.store(to, a * cos - b * sin, mask=real)
    tl.store(to + half, b * cos + a * sin, mask=real)
