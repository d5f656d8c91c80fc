"""The vocoder: frames in, 24 kHz PCM out, with no seams because its state is carried exactly.

A source and a filter (Fant), the filter a network: an excitation of all harmonics of the pitch and one of noise are cut
into windows of 40 ms, every 10 ms; causal ConvNeXt blocks over the frames say, for each frequency, how much of either
to let through and how to turn its phase; inverse FFTs are overlapped and added. The pitch comes with the frames (see
mel.py), so phase is carried, not guessed, and little training goes far (compare HiFTNet, arXiv 2309.09493, and Vocos,
arXiv 2306.00814). It works on frames of the flow, or of recordings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.speech.llm.sampling import uniform
from vivavoce.streaming.buffers import count_mask, shift_in_, take_items
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from . import mel
from .blocks import ConvBlock
from .config import VocoderConfig

FFT, SHIFT = 960, 240  # samples of a window, and between windows
PARTS = mel.HOP // SHIFT  # windows a frame
BINS = FFT // 2 + 1
TAIL = FFT - SHIFT  # samples that later windows still add to
OVERLAP = 1.5  # what the squares of the windows over one sample add up to


@dataclass(frozen=True, eq=False)
class VocoderState(State):
    """frames: (slots,) int64 heard so far; seed: (slots,) int64 of the noise; pitch: (slots,) float64 Hz at the
    end of the last frame, 0 before the first; phase: (slots,) float64, in periods; blocks: what each convolution
    remembers; source: (slots, TAIL, 2) excitations; tail: (slots, TAIL) unfinished samples."""

    frames: Tensor
    seed: Tensor
    pitch: Tensor
    phase: Tensor
    blocks: tuple[Tensor, ...]
    source: Tensor
    tail: Tensor


class Vocoder(nn.Module):
    """Frames (slots, n, 82) -> PCM (slots, 480 n). A `Stage`; the last 30 ms come with the end, fading out."""

    window: Tensor
    spread: Tensor
    level: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)
        self.register_buffer("spread", _spread(), persistent=False)
        # what an excitation of power 1 gives in each filter: the logarithm of its mel magnitude
        level = 0.5 * (torch.hann_window(mel.WINDOW).square().sum() * mel.filters().sum(0)).log()
        self.register_buffer("level", level, persistent=False)
        self.enter = nn.Linear(mel.WIDTH, config.width)
        self.blocks = nn.ModuleList(
            ConvBlock(config.width, config.hidden, config.kernel, causal=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.gains = nn.Linear(config.width, PARTS * 3 * BINS)
        nn.init.zeros_(self.gains.weight)
        with torch.no_grad():  # before training: mostly harmonics, filtered by the mel's own envelope
            self.gains.bias.view(PARTS, 3, BINS).copy_(torch.tensor([0.0, -2.0, 0.0])[:, None])

    @property
    def spec(self) -> StageSpec:
        return StageSpec(Fraction(mel.RATE, mel.HOP), Fraction(mel.RATE))

    def init_state(self, slots: int) -> VocoderState:
        c, like = self.config, self.enter.weight.detach()
        frames, seed = (torch.zeros(slots, dtype=torch.int64, device=like.device) for _ in range(2))
        return VocoderState(
            frames=frames,
            seed=seed,
            pitch=torch.zeros(slots, dtype=torch.float64, device=like.device),
            phase=torch.zeros(slots, dtype=torch.float64, device=like.device),
            blocks=tuple(like.new_zeros(slots, c.kernel - 1, c.width) for _ in self.blocks),
            source=like.new_zeros(slots, TAIL, 2),
            tail=like.new_zeros(slots, TAIL),
        )

    @torch.no_grad()
    def step(self, x: Tensor, state: VocoderState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        """x: (slots, n, 82). Returns (slots, 480 n + 720) PCM and (slots,) how many samples of it count."""
        if x.shape[1] == 0:  # the end may come alone; a frame that does not count keeps the shapes
            x = x.new_zeros(x.shape[0], 1, mel.WIDTH)
        n, start = x.shape[1], state.frames.clone()
        summed = self._sound(x, state, valid)
        # sample 0 of `summed` is TAIL before this step's first frame; what lies before the stream is dropped
        begin = (TAIL - mel.HOP * start).clamp(min=0)
        end = mel.HOP * valid + torch.where(final & (state.frames > 0), TAIL, 0)
        count = (end - begin).clamp(min=0)
        index = begin[:, None] + torch.arange(mel.HOP * n + TAIL, device=x.device)
        return take_items(summed, index.clamp_(max=summed.shape[1] - 1)).clamp(-1, 1), count

    def forward(self, x: Tensor) -> Tensor:
        """Whole excerpts with gradients: (B, n, 82) -> (B, 480 n) from fresh state, with noise drawn anew each time."""
        state = self.init_state(x.shape[0])
        state.seed.random_()
        everything = torch.full((x.shape[0],), x.shape[1], device=x.device)
        return self._sound(x, state, everything)[:, TAIL:]

    def _sound(self, x: Tensor, state: VocoderState, valid: Tensor) -> Tensor:
        """(slots, 480 n + 720): windows added up, the first sample TAIL before the step's first frame."""
        n, slots = x.shape[1], x.shape[0]
        source = shift_in_(state.source, self._excite(x, state, valid), mel.HOP * valid)
        windows = source.transpose(1, 2).unfold(2, FFT, SHIFT)[:, :, : PARTS * n] * self.window
        harmonic, noise = torch.fft.rfft(windows).unbind(1)  # each (slots, PARTS n, BINS)
        gain, breath, turn = self._filters(x, state, valid)
        made = torch.fft.irfft(harmonic * torch.polar(gain, turn) + noise * breath, FFT) * self.window / OVERLAP
        made = made * count_mask(PARTS * valid, PARTS * n)[..., None]
        length = mel.HOP * n + TAIL
        summed = F.fold(made.transpose(1, 2), (1, length), (1, FFT), stride=(1, SHIFT)).view(slots, length)
        summed = torch.cat((summed[:, :TAIL] + state.tail, summed[:, TAIL:]), dim=1)
        keep = (mel.HOP * valid)[:, None] + torch.arange(TAIL, device=x.device)
        state.tail.copy_(take_items(summed, keep).detach())
        state.frames.add_(valid)
        return summed

    def _filters(self, x: Tensor, state: VocoderState, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gains of the harmonics and of the noise, and the harmonics' phase, each (slots, PARTS n, BINS)."""
        h = self.enter(torch.cat((x[..., : mel.MELS] * 0.4 + 0.6, x[..., mel.PITCH :] - _CENTRE.to(x)), dim=-1))
        for block, memory in zip(self.blocks, state.blocks, strict=True):
            h = block(h, memory, valid)
        envelope = ((x[..., : mel.MELS] - self.level) @ self.spread)[:, :, None]
        gains = self.gains(self.norm(h)).unflatten(-1, (PARTS, 3, BINS))
        loud = (gains[..., :2, :] + envelope[..., None, :]).clamp(max=6.0).exp()
        gain, breath, turn = (y.flatten(1, 2) for y in (loud[..., 0, :], loud[..., 1, :], gains[..., 2, :]))
        return gain, breath, turn

    @torch.no_grad()
    def _excite(self, x: Tensor, state: VocoderState, valid: Tensor) -> Tensor:
        """(slots, 480 n, 2): every harmonic below 12 kHz alike, and white noise, both of power 1."""
        after = mel.MIDDLE * x[..., mel.PITCH].double().clamp(math.log(0.1), math.log(10.0)).exp()
        first = torch.where(state.frames > 0, state.pitch, after[:, 0])
        knots = torch.cat((first[:, None], after), dim=1)
        before = knots[:, :-1]
        turns = (before + after) * (mel.HOP / 2 / mel.RATE)
        starts = state.phase[:, None] + turns.cumsum(1) - turns
        starts = starts - _since(x[..., mel.VOICED] < 0.5, starts)
        last = valid[:, None]
        state.phase.copy_(take_items(torch.cat((state.phase[:, None], starts + turns), dim=1), last)[:, 0] % 1.0)
        state.pitch.copy_(take_items(knots, last)[:, 0])
        s = torch.arange(1, mel.HOP + 1, device=x.device, dtype=torch.float64)
        hertz = before[..., None] + (after - before)[..., None] * (s / mel.HOP)
        phase = starts[..., None] + (before[..., None] + hertz) * (s / 2 / mel.RATE)
        pulses = _pulses(phase.flatten(1), hertz.flatten(1))
        sample = mel.HOP * state.frames[:, None] + torch.arange(pulses.shape[1], device=x.device)
        noise = (uniform(state.seed[:, None], sample) - 0.5) * math.sqrt(12.0)
        return torch.stack((pulses, noise), dim=-1).to(x.dtype)


def _since(unvoiced: Tensor, starts: Tensor) -> Tensor:
    """(slots, n): where phase stood at the last unvoiced frame, 0 before the first. Phase begins anew there, unheard,
    so that what rounding does to the pitch adds up over a syllable and no longer."""
    place = torch.arange(starts.shape[1], device=starts.device).expand_as(unvoiced)
    latest = torch.where(unvoiced, place, -1).cummax(1).values
    return torch.where(latest < 0, 0.0, starts.gather(1, latest.clamp(min=0)))


def _pulses(phase: Tensor, hertz: Tensor) -> Tensor:
    """The sum of all harmonics below half the rate, in closed form (Dirichlet's kernel), scaled to power 1. phase: in
    periods."""
    phase = phase - phase.round()
    harmonics = (mel.RATE / 2 / hertz).floor()
    below = torch.sin(math.pi * phase)
    sums = torch.sin(math.pi * (2 * harmonics + 1) * phase) / (2 * torch.where(below.abs() < 1e-9, 1.0, below)) - 0.5
    return torch.where(below.abs() < 1e-9, harmonics, sums) * torch.sqrt(4 * hertz / mel.RATE)


def _spread() -> Tensor:
    """(MELS, BINS): draws a mel spectrum through the vocoder's frequencies."""
    filters = mel.filters()
    centres = torch.linspace(0, 1, filters.shape[0]) @ filters / filters.sum(0)
    place = torch.searchsorted(centres, torch.linspace(0, 1, BINS)).clamp(1, mel.MELS - 1)
    part = (torch.linspace(0, 1, BINS) - centres[place - 1]) / (centres[place] - centres[place - 1])
    part = part.clamp(0, 1)
    spread = torch.zeros(mel.MELS, BINS)
    spread[place - 1, torch.arange(BINS)] = 1 - part
    spread[place, torch.arange(BINS)] += part
    return spread


_CENTRE = torch.tensor([-0.0983, 0.5])  # of log pitch and voicing
