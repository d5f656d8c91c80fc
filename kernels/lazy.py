"""A Triton kernel that is compiled at its first launch: importing its file costs a machine without a GPU nothing.

Write the kernel as a plain function under `@Kernel`, its annotations as `tl.constexpr` (never evaluated, by the future
import); triton is imported, and `tl` put into the function's module, when it first runs. With TRITON_INTERPRET=1 set
before that, triton's interpreter runs it on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


class Kernel:
    """Call it with a grid, then the kernel's own arguments, the first a tensor on the device that is to run it."""

    def __init__(self, source: Callable[..., None]) -> None:
        self.source = source
        self.jitted: Any = None

    def __call__(self, grid: Sequence[int], first: Tensor, *args: object, **options: object) -> None:
        """options: the kernel's constants, and triton's num_warps and num_stages."""
        if self.jitted is None:
            self.jitted = self.jit()
        with torch.cuda.device_of(first):  # triton launches on the current device, whatever its arguments say
            self.jitted[tuple(grid)](first, *args, **options)

    def jit(self) -> Any:
        """The function as triton compiles it. Raises ImportError without triton."""
        import triton
        import triton.language

        self.source.__globals__["tl"] = triton.language
        return triton.jit(self.source)


def installed() -> bool:
    return find_spec("triton") is not None


def power_of_2(n: int, least: int = 1) -> int:
    """The smallest power of 2 that is n and `least` or more: the sizes that Triton's blocks may have."""
    return max(1 << (n - 1).bit_length(), least)


def warps(block: int) -> int:
    """Groups of 32 threads for a block of so many values."""
    return min(max(block // 256, 1), 8)


def in_rows(x: Tensor) -> Tensor:
    """(..., m, D) -> (rows, m, D) with D contiguous, a view where the strides allow it."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return x.reshape(x.shape[:-2].numel(), x.shape[-2] if x.dim() > 1 else 1, x.shape[-1])
