"""The rate converter inside the pipeline: a polyphase windowed-sinc resampler whose state is a value.

PCM comes from sessions at the rates clients and models use and leaves at another of them, for a whole batch of slots
in one matrix product. Files and devices use soxr instead (`audio.RateConverter`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .errors import BadConfig

ZEROS = 48  # zero crossings of the sinc on each side: the delay is 48 samples of the slower rate, 3 ms at 16 kHz
ATTENUATION = 90.0  # dB in the stop band
LARGEST = 4_000_000  # filter entries (16 MB); rates with a small common divisor would need more


@dataclass(frozen=True, eq=False)
class ResampleState(State):
    """held: (slots, C), the inputs that outputs to come still need; seen, made: (slots,), samples in and out so far."""

    held: Tensor
    seen: Tensor
    made: Tensor


class Resample(nn.Module):
    """A Stage from `in_rate` to `out_rate` Hz. Output j is the signal at input time j·in_rate/out_rate: no delay on the
    input's clock, only `lookahead_samples` that it waits for. n inputs in all give ceil(n·out_rate/in_rate) outputs.

    Kaiser-windowed sinc (Smith & Gossett, "A flexible sampling-rate conversion method", ICASSP 1984), flat to 0.88 of
    the lower Nyquist frequency, -90 dB beyond it. Raises BadConfig for equal rates and for rates too odd to tabulate.
    """

    weight: Tensor  # (inputs of one block, outputs of one block)

    def __init__(self, in_rate: int, out_rate: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if in_rate <= 0 or out_rate <= 0 or in_rate == out_rate:
            raise BadConfig(f"cannot resample {in_rate} Hz to {out_rate} Hz; give two different positive rates")
        self.spec = StageSpec(Fraction(in_rate), Fraction(out_rate))
        common = math.gcd(in_rate, out_rate)
        repeat = max(1, common // 100)  # blocks of about 10 ms: enough for the matrix product, little to throw away
        self.ins, self.outs = in_rate // common * repeat, out_rate // common * repeat
        self.lookahead_samples = math.ceil(ZEROS * max(1.0, in_rate / out_rate))
        width = self.ins + 2 * self.lookahead_samples - 1
        if width * self.outs > LARGEST:
            raise BadConfig(
                f"cannot resample {in_rate} Hz to {out_rate} Hz: their common divisor is only {common}; "
                "convert at the edge, or use 8000, 16000, 22050, 24000, 32000, 44100 or 48000 Hz"
            )
        self.register_buffer("weight", self._filter(width).to(dtype), persistent=False)

    def _filter(self, width: int) -> Tensor:
        """weight[i, o]: how much input i - lookahead_samples + 1 of a block counts in its output o."""
        half = self.lookahead_samples
        slower = min(1.0, self.outs / self.ins)
        beta = 0.1102 * (ATTENUATION - 8.7)
        transition = (ATTENUATION - 7.95) / (14.36 * 2 * ZEROS)  # Kaiser's formula, in cycles a sample
        cutoff = slower * (1 - transition)  # the middle of the transition; it ends at the lower Nyquist frequency
        time = torch.arange(width, dtype=torch.float64)[:, None] - (half - 1)
        time = time - torch.arange(self.outs, dtype=torch.float64) * self.ins / self.outs
        window = torch.special.i0(beta * (1 - (time / half) ** 2).clamp(min=0).sqrt())
        taps = torch.where(time.abs() < half, torch.sinc(cutoff * time) * window, 0.0)
        return taps / taps.sum(0)  # every phase passes a constant unchanged

    def init_state(self, slots: int) -> ResampleState:
        """Fresh streams, on the weights' device and in their dtype."""
        w = self.weight
        return ResampleState(
            held=w.new_zeros(slots, self.ins + 2 * self.lookahead_samples - 1),
            seen=torch.zeros(slots, dtype=torch.int64, device=w.device),
            made=torch.zeros(slots, dtype=torch.int64, device=w.device),
        )

    def step(
        self, x: Tensor, state: ResampleState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        """x: (slots, n) float, valid: (slots,), final: (slots,) bool. Returns y (slots, m), zero beyond what counts,
        and the counts (slots,). The shapes depend on n alone."""
        n = x.shape[1]
        start = self._first_held(state.made)
        seen = state.seen + valid
        whole = self._ceil_outputs(seen)
        ready = self._ceil_outputs((seen - self.lookahead_samples).clamp(min=0))
        made = torch.where(final, whole, torch.maximum(ready, state.made))

        n_blocks = -(-(n + self.lookahead_samples) // self.ins) + 2
        work = self._append(x, state, valid, state.seen - start, n_blocks)
        y = (work.unfold(1, self.weight.shape[0], self.ins) @ self.weight).flatten(1)
        m = math.ceil((n + self.lookahead_samples) * self.outs / self.ins) + 1
        out = torch.arange(m, device=x.device)
        count = made - state.made
        y = y.gather(1, (state.made % self.outs)[:, None] + out) * (out < count[:, None])

        keep = torch.arange(state.held.shape[1], device=x.device) + (self._first_held(made) - start)[:, None]
        state.held.copy_(work.gather(1, keep.clamp(max=work.shape[1] - 1)))
        state.seen.copy_(seen)
        state.made.copy_(made)
        return y, count

    def _first_held(self, made: Tensor) -> Tensor:
        """The input that the block of output `made` begins with; negative before the stream's start."""
        return made // self.outs * self.ins - self.lookahead_samples + 1

    def _ceil_outputs(self, inputs: Tensor) -> Tensor:
        return (inputs * self.outs + self.ins - 1) // self.ins

    def _append(self, x: Tensor, state: ResampleState, valid: Tensor, filled: Tensor, n_blocks: int) -> Tensor:
        """What is held, then x, then zeros, each row closed up: (slots, inputs of n_blocks blocks)."""
        width = (n_blocks - 1) * self.ins + self.weight.shape[0]
        capacity = state.held.shape[1]
        at = torch.arange(width, device=x.device) - filled[:, None]  # 0 is the first new sample
        source = torch.where(at < 0, at + filled[:, None], at.clamp(max=x.shape[1] - 1) + capacity)
        joined = torch.cat([state.held, x.to(state.held.dtype)], dim=1)
        return torch.where(at < valid[:, None], joined.gather(1, source.clamp(0, joined.shape[1] - 1)), 0)
