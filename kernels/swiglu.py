"""SwiGLU (arXiv 2002.05202), gate and up projection in one tensor: the plain-torch definition and its Triton twin."""

# ruff: noqa: N803 (a kernel's constants are capitals)
from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from .lazy import Kernel, power_of_2, warps

if TYPE_CHECKING:
    import triton.language as tl

MOST = 1024  # values a program


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up. gate_up: (..., 2 D), gate first; returns (..., D)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def swiglu_triton(gate_up: Tensor) -> Tensor:
    """`swiglu` in one launch, computed in float32 and rounded once."""
    gate_up = gate_up.contiguous()
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], width)
    if out.numel():
        block = min(power_of_2(width), MOST)
        _swiglu((out.numel() // width, -(-width // block)), gate_up, out, width, BLOCK=block, num_warps=warps(block))
    return out


@Kernel
def _swiglu(gate_up, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=real, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, gate / (1.0 + tl.exp(-gate)) * up, mask=real)
