"""RMSNorm (arXiv 1910.07467): the plain-torch definition, as Llama and Qwen use it."""

from __future__ import annotations

import torch
from torch import Tensor


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
