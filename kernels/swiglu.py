"""SwiGLU (arXiv 2002.05202): the plain-torch definition, gate and up projection in one tensor."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up. gate_up: (..., 2 D), gate first; returns (..., D)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
