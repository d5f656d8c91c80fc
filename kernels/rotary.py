"""Rotary position embedding (RoFormer, arXiv 2104.09864) in the half-split layout of Llama and Qwen: the plain-torch
definition. Angles come as a table, one row a position, so that whoever owns the frequencies computes it once.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
