"""Rotary embedding by a token's index, exact in sessions without end.

Only differences of positions matter, so where tokens keep their distances a key can be turned once, by its index, and
never again. The angle is a fraction of a circle in 64-bit fixed point: integers wrap as circles do, so the four
millionth token is placed as exactly as the fourth. model.py keeps keys turned so where it decodes on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PAGE, PAGES = 1024, 8  # neighbouring indices whose angles are tabulated together, and how many such tables stay

Angles = tuple[Tensor, Tensor]
"""Cosines (..., 1, D) and sines (..., 1, D), those of the first half negative: `turn` takes them."""


class Turns:
    """frequencies: (D / 2,) float64, radians a token; dtype: of the angles' cosines and sines."""

    def __init__(self, frequencies: Tensor, dtype: torch.dtype) -> None:
        circle = [round(f / (2 * math.pi) * 2**64) for f in frequencies.tolist()]
        step = [*circle, *circle, *(-s for s in circle), *circle]  # of the cosines, then of the sines
        start = [0] * (len(step) // 2) + [-(2**62)] * (len(step) // 2)  # a sine is the cosine a quarter before
        self.step = torch.tensor([_signed(x) for x in step], device=frequencies.device)
        self.start, self.dtype = torch.tensor(start, device=frequencies.device), dtype
        self._pages: dict[int, Tensor] = {}

    def near(self, index: Tensor | int, known: Sequence[int] | None = None) -> Tensor:
        """As a call, but (n, 2, D), of one number (1, 2, D). index: (n,); known: the same as numbers, where they are
        known: then it is quick if they lie near each other, as they do most of the time."""
        if isinstance(index, int):
            return self._page(index // PAGE).narrow(0, index % PAGE, 1)
        pages = {i // PAGE for i in known or ()}
        return self._page(pages.pop()).index_select(0, index % PAGE) if len(pages) == 1 else torch.cat(self(index), 1)

    def _page(self, page: int) -> Tensor:
        """(PAGE, 2, D)"""
        if page not in self._pages:
            if len(self._pages) == PAGES:
                self._pages.clear()
            first = page * PAGE
            self._pages[page] = torch.cat(self(torch.arange(first, first + PAGE, device=self.step.device)), 1)
        return self._pages[page]

    def __call__(self, index: Tensor) -> Angles:
        """index: (...,) int64."""
        angle = (index[..., None] * self.step).add_(self.start).double()
        cos, sin = angle.mul_(2 * math.pi / 2**64).cos_().to(self.dtype).unsqueeze(-2).chunk(2, -1)
        return cos, sin


def _signed(x: int) -> int:
    """Modulo 2⁶⁴, as int64 has it."""
    return (x + 2**63) % 2**64 - 2**63


def turn(x: Tensor, angles: Angles) -> Tensor:
    """x: (..., heads, D) in the half-split layout of kernels/rotary.py, each row by its own angles."""
    cos, sin = angles
    swapped = x.roll(x.shape[-1] // 2, -1)
    if x.dtype == cos.dtype:
        return torch.addcmul(x * cos, swapped, sin)
    return (x * cos + swapped * sin).to(x.dtype)
