"""The middle of a FastConformer's convolution: GLU, causal depthwise convolution, LayerNorm, Swish.

A step takes what the first pointwise layer gives and writes the memory of the next step. The plain-torch definition and
its Triton twin.
"""

# ruff: noqa: N803 (a kernel's constants are capitals)
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .lazy import Kernel, power_of_2, warps

if TYPE_CHECKING:
    import triton.language as tl

FEW_FRAMES = 14  # a convolution over fewer frames costs more to set up than to multiply out


def conv_step(
    x: Tensor,
    memory: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    valid: Tensor | None,
) -> Tensor:
    """swish(layer_norm(Σ_j weight[:, j] · joined[t + j] + bias)), where joined is the memory, then glu(x).

    x: (B, T, 2 W), values first, then gates; memory: (B, K - 1, W), oldest first, overwritten with the last K - 1 of
    what came; weight: (W, K); bias, norm_weight, norm_bias: (W,). valid: (B,) int64, how many of the T frames count,
    from the left, None for all; the others are silence. Returns (B, T, W). Source: Conformer, arXiv 2005.08100, section
    2.2.
    """
    frames, kept = x.shape[1], memory.shape[1]
    x = F.glu(x, dim=-1)
    if valid is not None:
        x = x.masked_fill(~(torch.arange(frames, device=x.device) < valid[:, None])[..., None], 0.0)
    joined = torch.cat((memory, x), dim=1)
    if valid is None:
        memory.copy_(joined.narrow(1, frames, kept))
    else:
        last = valid[:, None] + torch.arange(kept, device=x.device)
        memory.copy_(joined.gather(1, last[..., None].expand_as(memory)))
    y = depthwise(joined, weight, bias)
    return F.silu(F.layer_norm(y, y.shape[-1:], norm_weight, norm_bias, eps))


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each channel by its own weights: x (B, T + K - 1, W), weight (W, K), bias (W,) -> (B, T, W)."""
    windows = x.unfold(1, weight.shape[1], 1)
    if windows.shape[0] * windows.shape[1] <= FEW_FRAMES:
        y = (windows.transpose(2, 3) * weight.t()).sum(2)
        return y if bias is None else y + bias
    return F.conv1d(x.transpose(1, 2), weight.unsqueeze(1), bias, groups=len(weight)).transpose(1, 2)


def conv_step_triton(
    x: Tensor,
    memory: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    valid: Tensor | None,
) -> Tensor:
    """`conv_step` in two launches: a program a frame, then the memory. memory must be contiguous in its last two
    dimensions."""
    slots, frames, width = x.shape[0], x.shape[1], x.shape[2] // 2
    x, kept = x.contiguous(), memory.shape[1]
    valid = torch.full((slots,), frames, device=x.device) if valid is None else valid
    out = x.new_empty(slots, frames, width)
    block = power_of_2(width)
    if out.numel():
        _conv(
            (slots, frames), x, memory, weight.contiguous(), norm_weight if bias is None else bias, norm_weight,
            norm_bias, valid, out, eps, frames, width, memory.stride(0),
            K=kept + 1, BIAS=bias is not None, BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
        _keep(
            (slots, -(-width // 256)), x, memory, valid, frames, width, memory.stride(0), KEPT=kept, BLOCK=256,
            num_warps=2,
        )  # fmt: skip
    return out


@Kernel
def _conv(  # type: ignore[no-untyped-def]
    x, memory, weight, bias, norm_weight, norm_bias, valid, out, eps, frames, width, of_slot,
    K: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    slot, t, at = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BLOCK)
    real, count = at < width, tl.load(valid + slot)
    y = tl.zeros([BLOCK], tl.float32)
    if BIAS:
        y = tl.load(bias + at, mask=real, other=0.0).to(tl.float32)
    for j in tl.static_range(K):
        frame = t + j - (K - 1)
        old = tl.load(memory + slot * of_slot + (t + j) * width + at, mask=real & (frame < 0), other=0.0)
        here = x + (slot * frames + frame) * 2 * width + at
        new = real & (frame >= 0) & (frame < count)
        gate = tl.load(here + width, mask=new, other=0.0).to(tl.float32)
        value = tl.load(here, mask=new, other=0.0).to(tl.float32) / (1.0 + tl.exp(-gate))
        value = tl.where(frame < 0, old, value.to(old.dtype)).to(tl.float32)  # as the next step will find it
        y += value * tl.load(weight + at * K + j, mask=real, other=0.0).to(tl.float32)
    mean = tl.sum(y, 0) / width
    away = tl.where(real, y - mean, 0.0)
    y = away * (1.0 / tl.sqrt(tl.sum(away * away, 0) / width + eps))
    y = y * tl.load(norm_weight + at, mask=real, other=0.0).to(tl.float32)
    y += tl.load(norm_bias + at, mask=real, other=0.0).to(tl.float32)
    tl.store(out + (slot * frames + t) * width + at, y / (1.0 + tl.exp(-y)), mask=real)


@Kernel
def _keep(  # type: ignore[no-untyped-def]
    x, memory, valid, frames, width, of_slot, KEPT: tl.constexpr, BLOCK: tl.constexpr
):
    """Some channels of a slot's memory, oldest first: no row is overwritten before it has moved."""
    slot, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real, count = at < width, tl.load(valid + slot)
    for i in tl.static_range(KEPT):
        frame = count + i - KEPT
        old = tl.load(memory + slot * of_slot + (count + i) * width + at, mask=real & (frame < 0), other=0.0)
        here = x + (slot * frames + frame) * 2 * width + at
        gate = tl.load(here + width, mask=real & (frame >= 0), other=0.0).to(tl.float32)
        value = tl.load(here, mask=real & (frame >= 0), other=0.0).to(tl.float32) / (1.0 + tl.exp(-gate))
        kept = tl.where(frame < 0, old, value.to(old.dtype))
        tl.store(memory + slot * of_slot + i * width + at, kept, mask=real)
