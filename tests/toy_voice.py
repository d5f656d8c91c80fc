"""A voice for tests, made of arithmetic: same interface as the real one, instant, and sensitive to every mistake.

Its flow works in chunks and mixes each with its neighbours, so another cut into chunks gives other sound; its vocoder
adds noise from the session's seed and holds samples back until the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from vivavoce.speech.tts.phones import IDS, PAUSE, SEPARATORS, SPACE
from vivavoce.streaming.buffers import count_mask
from vivavoce.streaming.chain import Chain
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

RATE, HOP, HELD = 24_000, 480, 100
_SILENT = {IDS[symbol] for symbol in (PAUSE, *SEPARATORS)}


@dataclass(frozen=True)
class ToyPlan:
    frames: Tensor
    durations: list[int]


@dataclass(frozen=True, eq=False)
class FlowState(State):
    seed: Tensor
    last: Tensor


class ToyFlow:
    """Every frame and the mean of its chunk and of the one before."""

    spec = StageSpec(Fraction(50), Fraction(50), chunk=5)

    def init_state(self, slots: int) -> FlowState:
        return FlowState(torch.zeros(slots, dtype=torch.int64), torch.zeros(slots, 2))

    def step(self, x: Tensor, state: FlowState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        size = self.spec.chunk_items(lookahead)
        assert bool(((valid % size == 0) | final).all()), f"{valid.tolist()} frames are no chunks of {size}"
        parts = []
        for start in range(0, x.shape[1], size):
            part = x[:, start : start + size]
            mask = count_mask((valid - start).clamp(0, part.shape[1]), part.shape[1])[..., None]
            mean = (part * mask).sum(1) / mask.sum(1).clamp(min=1)
            parts.append(part + 0.1 * mean[:, None] + 0.01 * state.last[:, None])
            state.last.copy_(torch.where(mask.any(1), mean, state.last))
        return torch.cat(parts, 1) if parts else x, valid


@dataclass(frozen=True, eq=False)
class VocoderState(State):
    seed: Tensor
    frames: Tensor


class ToyVocoder:
    """A tone of each frame's own loudness, HOP samples a frame; the first HELD samples of silence come at once, so
    that as many are still held back until the end."""

    spec = StageSpec(Fraction(50), Fraction(RATE))

    def init_state(self, slots: int) -> VocoderState:
        return VocoderState(torch.zeros(slots, dtype=torch.int64), torch.zeros(slots, dtype=torch.int64))

    def step(self, x: Tensor, state: VocoderState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        sample = (state.frames[:, None] * HOP + torch.arange(x.shape[1] * HOP)).double()
        noise = torch.sin(sample * 12.9898 + state.seed[:, None].double() * 78.233)
        level = x[..., 0].repeat_interleave(HOP, dim=1) / 1000
        pcm = level * (torch.sin(sample * 0.05) + 0.1 * noise).float()
        state.frames.add_(valid)
        return pcm, valid * HOP


class ToyVoice:
    sample_rate, frame_samples = RATE, HOP

    def __init__(self) -> None:
        self.planned: list[list[int]] = []

    def plan(self, phones: Sequence[int], *, rate: float = 1.0, lengths: Mapping[int, int] | None = None) -> ToyPlan:
        """Frames (phone, its neighbours' sum): the context of a phrase changes it, as in a real voice."""
        self.planned.append(list(phones))
        durations = [self._frames(phone, rate) for phone in phones]
        for i, frames in (lengths or {}).items():
            durations[i] = frames
        ids = torch.tensor([0.0 if phone in _SILENT else phone for phone in phones])
        around = torch.nn.functional.pad(ids, (1, 1))
        rows = torch.stack((ids, around[:-2] + around[2:]), dim=1)
        return ToyPlan(rows.repeat_interleave(torch.tensor(durations), dim=0), durations)

    @staticmethod
    def _frames(phone: int, rate: float) -> int:
        if phone == IDS[SPACE]:
            return 0
        return max(1, round((6 if phone in _SILENT else 2 + phone % 5) / rate))

    def chain(self, steps: int) -> Chain:
        return Chain([ToyFlow(), ToyVocoder()], item_shapes=[(2,), (2,)], like=torch.zeros(()))
