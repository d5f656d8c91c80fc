"""The 25 Hz tap of a recogniser's encoder: log-mel frames in, a frame every 40 ms out, before the encoder's layers.

Two of the three strided convolutions below an encoder's layers, frozen; the third, which halves the rate once more, and
all that lies above can still be run on what comes out (`Squeezed`), so that a quantiser between them learns what the
recogniser needs. Frames go to the quantiser of `tokens`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.speech.nn.encoder import EncoderConfig
from vivavoce.speech.nn.subsampling import SUBSAMPLING, Subsampling
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

PAIR = 2  # frames of the tap to one of the encoder
_HEAD = SUBSAMPLING - 1


def tap_width(config: EncoderConfig) -> int:
    """Numbers in a frame of the tap."""
    bins = config.mels
    for _ in range(2):
        bins = bins // 2 + 1
    return bins * config.channels


class Squeezed(Subsampling):
    """A subsampling that sends what its second convolution gives through `between`: (B, 2 T, width) -> the same."""

    between: Callable[[Tensor], Tensor] | None  # no default here: it would hide a module that is set

    @classmethod
    def of(cls, other: Subsampling, between: Callable[[Tensor], Tensor] | None = None) -> Self:
        """The same weights, shared. Raises ValueError for one that is not causal."""
        if not other.causal:
            raise ValueError("an encoder that hears whole utterances only has no tap")
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.causal, made.between = True, between
        made.convs, made.points, made.out = other.convs, other.points, other.out
        return made

    def forward(self, mel: Tensor, seen: Tensor, first: Tensor, below: tuple[Tensor, ...] | None,
                valid: Tensor | None) -> Tensor:
        """As Subsampling."""
        x = self.tapped(mel, seen, first, below, valid)
        if self.between is not None:
            x = self.between(x)
        x = x.unflatten(-1, (-1, self.convs[1].out_channels))
        for _ in range(2):
            first, seen = (first + 1) // 2, torch.where(seen > 0, self.length(seen), 0)
        x = self._within(x, first, seen, valid)
        x = self._strided(2, x, first, seen, None if below is None else below[2],
                          None if valid is None else valid // 4)
        return self.out(x.transpose(2, 3).flatten(2))  # type: ignore[no-any-return]

    def tapped(self, mel: Tensor, seen: Tensor, first: Tensor, below: tuple[Tensor, ...] | None,
               valid: Tensor | None) -> Tensor:
        """As `forward`, (B, 8 T, mels) -> (B, 2 T, bins x channels)."""
        x = self._within(mel[..., None], first, seen, valid)
        for i in range(2):
            x = self._strided(i, x, first, seen, None if below is None else below[i],
                              None if valid is None else valid // 2**i)
            first, seen = (first + 1) // 2, torch.where(seen > 0, self.length(seen), 0)
        return x.flatten(2)

    def _strided(self, i: int, x: Tensor, first: Tensor, seen: Tensor, memory: Tensor | None,
                 valid: Tensor | None) -> Tensor:
        """The i-th convolution: x, first, seen are of its input."""
        x = self._convolve(cast(nn.Conv2d, self.convs[i]), x, memory, valid)
        if i:
            point = cast(nn.Conv2d, self.points[i - 1])
            x = F.linear(x.contiguous(), point.weight.flatten(1), point.bias)
        return self._within(x, (first + 1) // 2, torch.where(seen > 0, self.length(seen), 0), valid).relu()


@dataclass(frozen=True, eq=False)
class TapState(State):
    """frames: (slots,) int64 of the encoder given so far, two of the tap each; below: the last item into each
    convolution, (slots, 1, F, C)."""

    frames: Tensor
    below: tuple[Tensor, ...]


class Tap(nn.Module):
    """Mel frames (slots, n, mels) -> (slots, n / 4, width), pairs for each encoder frame. A `Stage`."""

    def __init__(self, config: EncoderConfig) -> None:
        """Raises ValueError for an encoder that is not causal."""
        super().__init__()
        self.config = config
        whole = Subsampling(config.mels, config.channels, config.width, config.causal)
        whole.convs, whole.points = whole.convs[:2], whole.points[:1]
        whole.out = nn.Identity()  # type: ignore[assignment]
        self.subsampling = Squeezed.of(whole)

    @property
    def width(self) -> int:
        return tap_width(self.config)

    @property
    def spec(self) -> StageSpec:
        return StageSpec(Fraction(100), Fraction(100 * PAIR, SUBSAMPLING), chunk=SUBSAMPLING, head=_HEAD)

    def init_state(self, slots: int) -> TapState:
        c, like = self.config, cast(nn.Conv2d, self.subsampling.convs[0]).weight.detach()
        bins = self.subsampling.bins(c.mels)
        return TapState(torch.zeros(slots, dtype=torch.int64, device=like.device),
                        tuple(like.new_zeros(slots, 1, bins[i], 1 if i == 0 else c.channels) for i in range(2)))

    @torch.no_grad()
    def step(self, x: Tensor, state: TapState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        """As `Encoder.step`."""
        start = state.frames.clone()
        first = SUBSAMPLING * start - _HEAD
        seen = first + valid
        end = seen
        for _ in range(3):
            end = torch.where(seen > 0, self.subsampling.length(end), 0)
        count = (end - start).clamp(min=0)
        state.frames.add_(count)
        if x.shape[1] == 0:
            return x.new_zeros(len(x), 0, self.width), PAIR * count
        return self.subsampling.tapped(x, seen, first, state.below, valid), PAIR * count
