"""Vectors in 8 bits with a scale each: what a key-value cache may keep instead of floats, a quarter of the memory.

sink_cache.py packs what is written and unpacks what is read. Floats of 8 bits are stored as bytes, which every
operation that moves memory knows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kept = Literal["int8", "fp8"]
DTYPES: dict[Kept, torch.dtype] = {"int8": torch.int8, "fp8": torch.uint8}  # as stored
_LARGEST = {torch.int8: 127.0, torch.uint8: 448.0}  # of float8_e4m3fn


def pack(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x: (..., D), finite -> the same in `dtype`, one of DTYPES, and scales (..., 1) in x's own dtype."""
    scale = (x.abs().amax(-1, keepdim=True) / _LARGEST[dtype]).clamp(min=torch.finfo(x.dtype).tiny)
    whole = x / scale
    if dtype == torch.int8:
        return whole.round().to(torch.int8), scale
    return whole.to(torch.float8_e4m3fn).view(torch.uint8), scale


def unpack(packed: Tensor, scale: Tensor) -> Tensor:
    """What `pack` was given, nearly."""
    plain = packed if packed.dtype == torch.int8 else packed.view(torch.float8_e4m3fn)
    return plain.to(scale.dtype) * scale
