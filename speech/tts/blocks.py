"""The block that the acoustic model and the vocoder are made of: ConvNeXt (arXiv 2201.03545) over frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.streaming.buffers import shift_in_


class ConvBlock(nn.Module):
    """x + scale · MLP(norm(depthwise convolution of x)), (B, T, width) -> the same.

    causal: the convolution looks back only, over `kernel - 1` frames that a caller may keep (see `forward`).
    """

    def __init__(self, width: int, hidden: int, kernel: int, *, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """memory: (B, kernel - 1, width) the frames before x, overwritten by the last that count (valid: (B,), None for
        all); None: zeros. Only a causal block has one."""
        y: Tensor = self.down(F.gelu(self.up(self.norm(self._convolve(x, memory, valid)))))
        return torch.addcmul(x, self.scale, self.dropout(y))

    def _convolve(self, x: Tensor, memory: Tensor | None, valid: Tensor | None) -> Tensor:
        if memory is not None:
            x = shift_in_(memory, x, valid)
        else:
            before = self.kernel - 1 if self.causal else self.kernel // 2
            x = F.pad(x, (0, 0, before, self.kernel - 1 - before))
        return self.depthwise(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
