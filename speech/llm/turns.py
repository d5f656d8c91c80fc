"""Rotary embedding by a token's index, exact in sessions without end.

Only differences of positions matter, so where tokens keep their distances a key can be turned once, by its index, and
never again. The angle is a fraction of a circle in 64-bit fixed point: integers wrap as circles do, so the four
millionth token is placed as exactly as the fourth. model.py keeps keys turned so where it decodes on a CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Angles = tuple[Tensor, Tensor]
"""Cosines (..., 1, D) and sines (..., 1, D), those of the first half negative: `turn` takes them."""


class Turns:
    """frequencies: (D / 2,) float64, radians a token; dtype: of the angles' cosines and sines."""

    def __init__(self, frequencies: Tensor, dtype: torch.dtype) -> None:
        circle = [round(f / (2 * math.pi) * 2**64) % 2**64 for f in frequencies.tolist()]
        signed = [s - 2**64 if s >= 2**63 else s for s in circle]
        self.step, self.dtype = torch.tensor(signed, device=frequencies.device), dtype

    def __call__(self, index: Tensor) -> Angles:
        """index: (...,) int64."""
        angle = (index[..., None] * self.step).double() * (2 * math.pi / 2**64)
        cos, sin = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        return torch.cat((cos, cos), -1).unsqueeze(-2), torch.cat((-sin, sin), -1).unsqueeze(-2)


def turn(x: Tensor, angles: Angles) -> Tensor:
    """x: (..., heads, D) in the half-split layout of kernels/rotary.py, each row by its own angles."""
    cos, sin = angles
    swapped = x.roll(x.shape[-1] // 2, -1)
    if x.dtype == cos.dtype:
        return torch.addcmul(x * cos, swapped, sin)
    return (x * cos + swapped * sin).to(x.dtype)
