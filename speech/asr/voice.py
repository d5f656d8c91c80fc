"""Whether somebody speaks, beside every encoder frame, so that a decoder writes nothing where nobody does.

`Heard` runs features and encoder, and voice activity (speech/vad.py) on the same PCM; each frame leaves with one more
channel, what the decoder's labels lose there; `GatedCtc` and transducer.py's `GatedTransducer` take it off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vivavoce.speech.vad import WINDOW, Vad, VadState
from vivavoce.streaming.buffers import shift_in_, take_items
from vivavoce.streaming.chain import Chain, ChainState
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .ctc import FRAME_HZ, LogProbs
from .words import FRAME_SAMPLES

REACH = 200  # samples after a frame's centre that the frame itself needs: what was heard when it could be computed


@dataclass(frozen=True)
class Gate:
    """How labels depend on voice. A frame's voice is the mean of the `best` likeliest of the last `windows` windows of
    32 ms; below `full` its labels' log-probabilities fall by `weight` times the logarithm of what is missing.

    Chosen on training recordings and the noises of training (recipes/train/asr/RESULTS.md): half a second of windows
    keeps words whose last piece comes late, five of them pass over a bark.
    """

    windows: int = 16
    best: int = 5
    full: float = 0.9
    weight: float = 2.0

    def penalty(self, voice: Tensor) -> Tensor:
        """voice: (..., windows) probabilities. Returns (...): nats to add to every label, 0 or less."""
        heard = voice.topk(self.best, dim=-1).values.mean(-1)
        return self.weight * (heard.clamp(min=1e-6) / self.full).log().clamp(max=0)


@dataclass(frozen=True, eq=False)
class HeardState(State):
    """voice: (slots, n), the last windows' probabilities, 0 before the first; windows, frames: (slots,), how many came
    so far."""

    front: ChainState
    vad: VadState
    voice: Tensor
    windows: Tensor
    frames: Tensor


class Heard:
    """A Stage: PCM (slots, n) -> encoder frames and their penalty, (slots, m, width + 1).

    front: features and encoder. A frame's voice ends where the frame's own samples end, whatever the lookahead, so it
    is always there when the frame is, and the same however the stream is cut.
    """

    def __init__(self, front: Chain, vad: Vad, gate: Gate | None = None) -> None:
        self.front, self.vad, self.gate = front, vad, gate or Gate()
        longest = FRAME_SAMPLES * (front.max_lookahead + 2) // WINDOW  # windows that may wait for their frame
        self.kept = longest + self.gate.windows

    @property
    def spec(self) -> StageSpec:
        return StageSpec(self.front.spec.in_hz, FRAME_HZ)

    def init_state(self, slots: int) -> HeardState:
        vad = self.vad.init_state(slots)
        none = torch.zeros_like(vad.pending)
        return HeardState(self.front.init_state(slots), vad, vad.h.new_zeros(slots, self.kept), none, none.clone())

    @torch.no_grad()
    def step(
        self, x: Tensor, state: HeardState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        """x: (slots, n) PCM at 16 kHz; see `Stage.step`."""
        frames, count = self.front.step(x, state.front, valid, final, lookahead)
        speech, windows = self.vad.step(x, state.vad, valid, final)
        first = state.windows - self.kept  # the window that stands first in `voice`
        voice = shift_in_(state.voice, speech, windows)
        state.windows.add_(windows)
        number = state.frames[:, None] + torch.arange(frames.shape[1], device=frames.device)
        end = torch.minimum((FRAME_SAMPLES * number + REACH) // WINDOW, state.windows[:, None])
        index = (end - first[:, None])[..., None] + torch.arange(-self.gate.windows, 0, device=frames.device)
        around = take_items(voice, index.clamp(0, voice.shape[1] - 1).flatten(1)).view(index.shape)
        state.frames.add_(count)
        return torch.cat([frames, self.gate.penalty(around)[..., None].to(frames.dtype)], dim=-1), count


class GatedCtc:
    """A CTC head for frames from `Heard`: every label loses the frame's penalty, so that blank wins without voice."""

    def __init__(self, head: LogProbs, blank: int) -> None:
        self.head, self.blank = head, blank

    def __call__(self, x: Tensor) -> Tensor:
        """x: (slots, T, width + 1). Returns scores (slots, T, vocab + 1), log-probabilities where there is voice."""
        log_probs = self.head(x[..., :-1])
        labels = torch.arange(log_probs.shape[-1], device=x.device) != self.blank
        return log_probs + x[..., -1:].to(log_probs.dtype) * labels
