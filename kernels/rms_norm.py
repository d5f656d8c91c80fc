"""RMSNorm (arXiv 1910.07467) as Llama and Qwen use it: the plain-torch definition and its Triton twin."""

# ruff: noqa: N803 (a kernel's constants are capitals)
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .lazy import Kernel, in_rows, power_of_2, warps

if TYPE_CHECKING:
    import triton.language as tl


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last dimension. x: (..., D); weight: (D,).

    Computed in float32 (float64 for float64), rounded to x's dtype before the weight as the checkpoints were trained.
    """
    if x.dtype in (torch.float32, torch.float64):
        # the root of the mean square and eps is the hypotenuse of √mean and √eps: half the calls
        root = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return x / torch.hypot(root, x.new_full((), eps**0.5)) * weight
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` in one launch, a program a row."""
    rows = in_rows(x)
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
    a, m, width = rows.shape
    block = power_of_2(width)
    if out.numel():
        _rms_norm(
            (a * m,), rows, weight, out, eps, m, width, rows.stride(0), rows.stride(1), BLOCK=block,
            num_warps=warps(block),
        )  # fmt: skip
    return out


@Kernel
def _rms_norm(x, weight, out, eps, m, width, of_a, of_m, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    real = at < width
    given = tl.load(x + row // m * of_a + row % m * of_m + at, mask=real, other=0.0)
    wide = given.to(tl.float32)
    normal = wide * (1.0 / tl.sqrt(tl.sum(wide * wide, 0) / width + eps))
    y = normal.to(given.dtype).to(tl.float32) * tl.load(weight + at, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, y, mask=real)
