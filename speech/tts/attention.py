"""Self-attention with rotary positions, as the acoustic model and the flow use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.kernels.registry import rotary
from vivavoce.kernels.rotary import rotary_table
from vivavoce.streaming.buffers import shift_in_


class Attention(nn.Module):
    """(B, T, width) -> the same. Keys are stored before they are turned, and positions are those within the memory and
    the step, so that nothing drifts however long a stream grows."""

    frequencies: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        half = width // heads // 2
        self.register_buffer("frequencies", 1000.0 ** (-torch.arange(half) / half), persistent=False)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """mask: (B, 1, T, L) bool, true where a query sees a key; L is T, or kept + T with a memory: (B, kept, 2,
        heads, width / heads), keys and values of the frames before, overwritten (see `shift_in_`)."""
        qkv = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1)
        q, kv = qkv[:, :, 0], qkv[:, :, 1:]
        if memory is not None:
            kv = shift_in_(memory, kv, valid)
        place = torch.arange(kv.shape[1], device=x.device)
        table = rotary_table(self.frequencies, kv.shape[1]).to(q.dtype)
        q, k = rotary(q, table, place[kv.shape[1] - x.shape[1] :]), rotary(kv[:, :, 0], table, place)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), kv[:, :, 1].transpose(1, 2), mask)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
