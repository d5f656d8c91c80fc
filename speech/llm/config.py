"""The decoder's configuration: what Qwen2, Qwen3 and Llama differ in, and nothing else.

hub.py reads it from the Hub's `config.json`; model.py builds from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of slow rotary frequencies: wavelengths longer than `original_positions` /
    `low_frequency` are divided by `factor`, those shorter than / `high_frequency` stay, the others lie between."""

    factor: float
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_positions: int = 8192


@dataclass(frozen=True)
class LlmConfig:
    """A decoder-only transformer.

    vocabulary: tokens of text, speech and control together; width: of the residual stream; hidden: of the SwiGLU;
    kv_heads: shared by heads / kv_heads query heads each; theta: rotary base; qkv_bias (Qwen2), out_bias, mlp_bias
    (Llama's options), qk_norm (Qwen3); tied: output rows are the input embeddings; ends: tokens that end a reply.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    eps: float = 1e-6
    theta: float = 10000.0
    scaling: RopeScaling | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.width, self.layers, self.heads, self.kv_heads, self.head_dim, self.hidden)
        if min(sizes) < 1:
            raise ValueError("every size is at least 1")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} evenly, or head_dim is odd")

    def frequencies(self) -> Tensor:
        """(head_dim / 2,) float64, radians a token."""
        steps = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
        plain = self.theta**-steps
        return plain if self.scaling is None else _stretch(plain, self.scaling)


def _stretch(frequencies: Tensor, s: RopeScaling) -> Tensor:
    turns = s.original_positions * frequencies / (2 * math.pi)  # within the original length
    smooth = ((turns - s.low_frequency) / (s.high_frequency - s.low_frequency)).clamp(0, 1)
    return frequencies * (smooth + (1 - smooth) / s.factor)
