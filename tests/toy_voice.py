"""A voice for tests, made of arithmetic: same interface as the real one, instant, and sensitive to every mistake.

It looks ahead; its flow works in chunks and mixes each with the one before, so that another cut into chunks gives other
sound, and adds noise from the session's seed; its vocoder holds samples back until the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from vivavoce.speech.tts.flow import FlowState
from vivavoce.speech.tts.phones import IDS, PAUSE, SEPARATORS, SPACE
from vivavoce.speech.tts.voice import Plan
from vivavoce.streaming.buffers import count_mask
from vivavoce.streaming.chain import Chain
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

RATE, HOP, HELD = 24_000, 480, 100
_SILENT = {IDS[symbol] for symbol in (PAUSE, *SEPARATORS)}
_HZ = Fraction(50)


@dataclass(frozen=True, eq=False)
class Held(State):
    """waiting: (slots, n, ...) what has not come out yet; count: (slots,) how many of them there are."""

    waiting: Tensor
    count: Tensor


class Late:
    """Holds back the last `ahead` items until the end."""

    def __init__(self, ahead: int, width: tuple[int, ...], hz: Fraction) -> None:
        self.ahead, self.width, self.spec = ahead, width, StageSpec(hz, hz)

    def init_state(self, slots: int) -> Held:
        return Held(torch.zeros(slots, self.ahead, *self.width), torch.zeros(slots, dtype=torch.int64))

    def step(self, x: Tensor, state: Held, valid: Tensor, final: Tensor, lookahead: int = 0) -> tuple[Tensor, Tensor]:
        rows = []
        for i, n in enumerate(valid.tolist()):
            have = torch.cat((state.waiting[i, : int(state.count[i])], x[i, :n]))
            keep = 0 if final[i] else min(self.ahead, len(have))
            rows.append(have[: len(have) - keep])
            state.count[i] = keep
            state.waiting[i, :keep] = have[len(have) - keep :]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


@dataclass(frozen=True, eq=False)
class ToyState(FlowState):
    last: Tensor


class ToyFlow:
    """Every frame, the mean of its chunk and of the one before, and noise."""

    spec = StageSpec(_HZ, _HZ, chunk=5)

    def init_state(self, slots: int) -> ToyState:
        frames, seed, steps = (torch.zeros(slots, dtype=torch.int64) for _ in range(3))
        return ToyState(frames, seed, steps, (), torch.zeros(slots, 2))

    def step(self, x: Tensor, state: ToyState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        size = self.spec.chunk_items(lookahead)
        assert bool(((valid % size == 0) | final).all()), f"{valid.tolist()} frames are no chunks of {size}"
        parts = [x[:, :0]]
        for start in range(0, x.shape[1], size):
            part = x[:, start : start + size]
            mask = count_mask((valid - start).clamp(0, part.shape[1]), part.shape[1])[..., None]
            mean = (part * mask).sum(1) / mask.sum(1).clamp(min=1)
            parts.append(part + 0.1 * mean[:, None] + 0.01 * state.last[:, None])
            state.last.copy_(torch.where(mask.any(1), mean, state.last))
        at = state.frames[:, None] + torch.arange(x.shape[1])
        noise = torch.sin(at * 12.9898 + state.seed[:, None] * 78.233)
        state.frames.add_(valid)
        return torch.cat(parts, 1) + noise[..., None], valid


class ToyVocoder:
    """HOP samples a frame, as loud as its phone."""

    spec = StageSpec(_HZ, Fraction(RATE))

    def init_state(self, slots: int) -> Held:
        return Held(torch.zeros(slots, 0), torch.zeros(slots, dtype=torch.int64))

    def step(self, x: Tensor, state: Held, valid: Tensor, final: Tensor, lookahead: int = 0) -> tuple[Tensor, Tensor]:
        shape = torch.linspace(0.5, 1, HOP) / 1000
        return (x[..., 0, None] * shape).flatten(1), valid * HOP


class ToyVoice:
    sample_rate, frame_samples, timed = RATE, HOP, True

    def __init__(self) -> None:
        self.planned: list[list[int]] = []

    def plan(self, phones: Sequence[int], *, rate: float = 1.0) -> Plan:
        """Frames (phone, its neighbours' sum): the context of a phrase changes it, as in a real voice."""
        self.planned.append(list(phones))
        durations = [self._frames(phone, rate) for phone in phones]
        ids = torch.tensor([0.0 if phone in _SILENT else phone for phone in phones])
        around = F.pad(ids, (1, 1))
        rows = torch.stack((ids, around[:-2] + around[2:]), dim=1)
        return Plan(rows.repeat_interleave(torch.tensor(durations), dim=0), durations)

    def pause(self, frames: int) -> Plan:
        return Plan(torch.zeros(frames, 2), [frames])

    @staticmethod
    def _frames(phone: int, rate: float) -> int:
        if phone == IDS[SPACE]:
            return 0
        return max(1, round((6 if phone in _SILENT else 2 + phone % 5) / rate))

    def stage(self, *, steps: int) -> Chain:
        stages = [Late(3, (2,), _HZ), ToyFlow(), ToyVocoder(), Late(HELD, (), Fraction(RATE))]
        return Chain(stages, item_shapes=[(2,), (2,), (2,), ()], like=torch.zeros(()), max_lookahead=19, block=400)
