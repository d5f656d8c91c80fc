"""Eight mel frames of 10 ms into one encoder frame of 80 ms, by strided convolutions.

Log-mel frames come from `encoder`, with the memories of a stream; what leaves goes to its layers.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.streaming.buffers import shift_in_

Count = TypeVar("Count", Tensor, int)

SUBSAMPLING = 8


class Subsampling(nn.Module):
    """Mel frames (B, 8 T, mels) -> (B, T, width): three stride-2 convolutions, the last two depthwise-separable.

    Causal: output t depends on mel frames 8 t - 14 to 8 t. The input begins 7 frames before the frame its first output
    is centred on, so every convolution needs exactly one item from before.
    """

    def __init__(self, mels: int, channels: int, width: int, causal: bool) -> None:
        super().__init__()
        c, self.causal = channels, causal
        self.convs = nn.ModuleList(
            nn.Conv2d(1 if i == 0 else c, c, 3, stride=2, groups=1 if i == 0 else c) for i in range(3)
        )
        self.points = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in range(2))
        self.out = nn.Linear(c * self.bins(mels)[-1], width)

    def bins(self, mels: int) -> list[int]:
        """Frequency bins into each convolution, and out of the last."""
        sizes = [mels]
        for _ in range(3):
            sizes.append(self.length(sizes[-1]))
        return sizes

    def length(self, n: Count) -> Count:
        """Outputs of one convolution over n inputs with its own zero padding at both ends."""
        return n // 2 + 1 if self.causal else (n - 1) // 2 + 1

    def forward(
        self, mel: Tensor, seen: Tensor, first: Tensor, below: tuple[Tensor, ...] | None, valid: Tensor | None
    ) -> Tensor:
        """mel: (B, 8 T, mels), row i beginning at mel frame first[i] (below 0: before the stream); seen: (B,) mel
        frames heard including these; below: the convolutions' memories, written; valid: (B,) new mel frames; None: all
        count and all lie within the stream."""
        x = self._within(mel[..., None], first, seen, valid)
        for i, conv in enumerate(self.convs):
            x = self._convolve(
                cast(nn.Conv2d, conv), x, None if below is None else below[i], None if valid is None else valid // 2**i
            )
            if i:
                point = cast(nn.Conv2d, self.points[i - 1])
                x = F.linear(x.contiguous(), point.weight.flatten(1), point.bias)
            if valid is not None:
                first, seen = (first + 1) // 2, torch.where(seen > 0, self.length(seen), 0)
            x = self._within(x, first, seen, valid).relu_()
        return self.out(x.transpose(2, 3).flatten(2))  # type: ignore[no-any-return]

    def _convolve(self, conv: nn.Conv2d, x: Tensor, memory: Tensor | None, valid: Tensor | None) -> Tensor:
        """x: (B, n, F, C) -> (B, n / 2, F', C'). Channels stay last, where depthwise convolutions are fastest."""
        bins = self.length(x.shape[2])
        pad = (0, 2) if self.causal else (1, 1)
        if self.causal:
            x = F.pad(x, (0, 0, 0, 0, 1, 0)) if memory is None else shift_in_(memory, x, valid)
        weight = conv.weight.contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, conv.bias, 2, pad, 1, conv.groups)
        # a causal convolution pads 2 below the lowest bin and 1 above the highest: what a second would add is dropped
        return y[..., :bins].permute(0, 2, 3, 1)

    @staticmethod
    def _within(x: Tensor, first: Tensor, length: Tensor, valid: Tensor | None) -> Tensor:
        """Zero what lies before the stream or past its end: that is each convolution's own padding, which biases make
        different from convolved zeros. x: (B, n, F, C), row i beginning at position first[i]."""
        if valid is None:
            return x
        position = first[:, None] + torch.arange(x.shape[1], device=x.device)
        return x * ((position >= 0) & (position < length[:, None]))[..., None, None]
