"""Log-mel features, streamed: 16 kHz PCM in by pushes of any size, a frame every 10 ms out.

The recipe is NeMo's without normalisation: pre-emphasis 0.97, symmetric Hann 400 centred in an FFT of 512, hop 160,
Slaney mel, power, log(x + 2^-24). N samples give N // 160 frames; frame t is centred on sample 160 t and needs samples
up to 160 t + 200, so it comes out as soon as those are there. Goes into the encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.streaming.buffers import count_mask, shift_in_, take_items
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

RATE, HOP, WINDOW, FFT = 16000, 160, 400, 512
REACH = WINDOW // 2  # samples after its centre that a frame needs
KEPT = FFT // 2 + REACH - 1  # the most that can wait: from the next frame's first sample to one short of its last


@dataclass(frozen=True, eq=False)
class FeatureState(State):
    """samples, frames: (slots,) int64 heard and given so far; raw: (slots, 1) the last sample;
    waiting: (slots, KEPT) the last pre-emphasised samples."""

    samples: Tensor
    frames: Tensor
    raw: Tensor
    waiting: Tensor


class LogMel(nn.Module):
    """PCM (slots, n) -> log-mel frames (slots, m, mels). A `Stage`."""

    window: Tensor
    filters: Tensor

    def __init__(self, mels: int = 80, preemphasis: float = 0.97) -> None:
        super().__init__()
        self.mels, self.preemphasis = mels, preemphasis
        window = F.pad(torch.hann_window(WINDOW, periodic=False), ((FFT - WINDOW) // 2,) * 2)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", slaney_filters(mels), persistent=False)

    @property
    def spec(self) -> StageSpec:
        return StageSpec(Fraction(RATE), Fraction(RATE, HOP))

    def init_state(self, slots: int) -> FeatureState:
        like = self.window
        samples, frames = (torch.zeros(slots, dtype=torch.int64, device=like.device) for _ in range(2))
        return FeatureState(samples, frames, like.new_zeros(slots, 1), like.new_zeros(slots, KEPT))

    def step(self, x: Tensor, state: FeatureState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        """x: (slots, n) float PCM in [-1, 1]. Returns (slots, m, mels) and (slots,) counts."""
        n = x.shape[1]
        x = x.to(self.window.dtype)
        before = shift_in_(state.raw, x, valid)[:, :-1]
        # past the end of the stream there is silence *after* pre-emphasis, so the mask comes after it
        x = (x - self.preemphasis * before).masked_fill(~count_mask(valid, n), 0.0)
        start = KEPT + HOP * state.frames - FFT // 2 - state.samples  # where the next frame begins in `joined`
        joined = F.pad(shift_in_(state.waiting, x, valid), (0, FFT))
        state.samples.add_(valid)
        total = torch.where(final, state.samples // HOP, (state.samples - REACH) // HOP + 1).clamp(min=0)
        count = (total - state.frames).clamp(min=0)
        state.frames.add_(count)
        return self.log_mel(joined, start, (n + KEPT) // HOP), count

    def log_mel(self, signal: Tensor, start: Tensor, frames: int) -> Tensor:
        """(slots, samples) -> `frames` frames a row, the first one's FFT beginning at sample start[i]."""
        index = (start[:, None] + torch.arange((frames - 1) * HOP + FFT, device=start.device)) if frames else None
        if index is None:
            return signal.new_zeros(signal.shape[0], 0, self.mels)
        aligned = take_items(signal, index.clamp_(max=signal.shape[1] - 1))
        spectrum = torch.fft.rfft(aligned.unfold(1, FFT, HOP) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log(power @ self.filters + 2.0**-24)

    @torch.no_grad()
    def forward(self, pcm: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Whole utterances at once: pcm (B, n), samples (B,) -> (B, frames, mels), (B,). One step from fresh state."""
        everything = torch.ones_like(samples, dtype=torch.bool)
        mel, count = self.step(pcm, self.init_state(pcm.shape[0]), samples, everything)
        return mel[:, : int(count.max())] if len(count) else mel, count


def slaney_filters(mels: int) -> Tensor:
    """(FFT / 2 + 1, mels) triangular filters, equal in area, spaced on Slaney's scale (linear to 1 kHz, then log)."""
    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000, 6.4)

    points = torch.linspace(to_mel(0.0), to_mel(RATE / 2), mels + 2, dtype=torch.float64)
    hz = torch.where(points < 15, points * 200 / 3, 1000 * torch.exp((points - 15) * math.log(6.4) / 27))
    bins = torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64)[:, None]
    low, centre, high = hz[:-2], hz[1:-1], hz[2:]
    triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
    return (triangles * 2 / (high - low)).to(torch.float32)
