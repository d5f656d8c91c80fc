"""When someone starts and stops speaking: the end-of-utterance rule.

Voice activity probabilities (`vad.Vad`) come in, with how long the recogniser has emitted nothing where there is one;
events in sample positions go out. It knows no clock and no socket: the same input gives the same events.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from vivavoce.streaming.state import State

from .errors import BadConfig
from .vad import WINDOW


@dataclass(frozen=True)
class TurnConfig:
    """threshold: probability from which a window is speech; once speaking, `hysteresis` less will do.

    In samples at 16 kHz: min_speech, shorter bursts are no speech; end_silence, how long silence lasts before the
    utterance ends, provided the recogniser has emitted nothing for end_blank; max_silence, after which it ends
    whatever the recogniser emits; max_utterance, after which it is cut.
    """

    threshold: float = 0.5
    hysteresis: float = 0.15
    min_speech: int = 1536
    end_silence: int = 8000
    end_blank: int = 6400
    max_silence: int = 24000
    max_utterance: int = 480000

    def __post_init__(self) -> None:
        if not 0 <= self.hysteresis < self.threshold <= 1:
            raise BadConfig(
                f"threshold {self.threshold}, hysteresis {self.hysteresis}: keep 0 <= hysteresis < threshold <= 1"
            )
        if min(self.min_speech, self.end_blank) < 0 or not 0 < self.end_silence <= self.max_silence:
            raise BadConfig(
                f"min_speech {self.min_speech}, end_blank {self.end_blank}, end_silence {self.end_silence}, "
                f"max_silence {self.max_silence}: keep them positive and end_silence <= max_silence"
            )
        if self.max_utterance <= self.min_speech:
            raise BadConfig(f"max_utterance {self.max_utterance} must be longer than min_speech {self.min_speech}")


@dataclass(frozen=True)
class SpeechStarted:
    """Speech began at this sample; known min_speech later."""

    at_sample: int


@dataclass(frozen=True)
class SpeechEnded:
    """The utterance ended: its speech at at_sample, known at decided_at. `reason`: silence, length (max_utterance was
    reached and the speech may go on) or end (of the stream)."""

    at_sample: int
    decided_at: int
    reason: Literal["silence", "length", "end"]


TurnEvent = SpeechStarted | SpeechEnded


@dataclass(frozen=True, eq=False)
class TurnState(State):
    """All (slots,). The first seven are each session's TurnConfig; the rest counts samples, -1 standing for none.

    heard: where the next window begins; onset: where the present speech, or what may become it, began; voiced: where
    its last speech window ended; speaking: whether SpeechStarted was given out.
    """

    threshold: Tensor
    hysteresis: Tensor
    min_speech: Tensor
    end_silence: Tensor
    end_blank: Tensor
    max_silence: Tensor
    max_utterance: Tensor
    heard: Tensor
    onset: Tensor
    voiced: Tensor
    speaking: Tensor

    def configure_(self, slot: int, config: TurnConfig) -> None:
        """Give one session its own rule, from its next window on."""
        for f in fields(config):
            getattr(self, f.name)[slot] = getattr(config, f.name)


class Turn:
    """The rule, a window of 512 samples at a time, for a batch of slots."""

    def __init__(self, config: TurnConfig | None = None) -> None:
        self.config = config or TurnConfig()

    def init_state(self, slots: int) -> TurnState:
        def rows(value: float) -> Tensor:
            return torch.full((slots,), value, dtype=torch.float64 if isinstance(value, float) else torch.int64)

        rule = {f.name: rows(getattr(self.config, f.name)) for f in fields(self.config)}
        return TurnState(**rule, heard=rows(0), onset=rows(-1), voiced=rows(-1), speaking=torch.zeros(slots).bool())

    def step(
        self, speech: Tensor, state: TurnState, valid: Tensor, final: Tensor, blank: Tensor | None = None
    ) -> list[list[TurnEvent]]:
        """The events of each slot, in order.

        speech: (slots, n) probabilities, of which valid (slots,) count; final: (slots,) bool, the stream ends here and
        so does its utterance. blank: (slots,) or (slots, n), for how many samples the recogniser had emitted nothing
        when the window came; without it silence alone decides.
        """
        speech, valid, final = speech.cpu().double(), valid.cpu(), final.cpu()
        if blank is not None:
            blank = blank.cpu().view(len(speech), -1).expand(len(speech), speech.shape[1])
        events: list[list[TurnEvent]] = [[] for _ in speech]
        for i in range(speech.shape[1]):
            live = i < valid
            self._hear(speech[:, i], state, live)
            self._start(state, live, events)
            self._end(state, live, None if blank is None else blank[:, i], events)
        self._close(state, state.speaking & final, state.voiced, "end", events)
        return events

    def _hear(self, speech: Tensor, state: TurnState, live: Tensor) -> None:
        floor = torch.where(state.onset >= 0, state.threshold - state.hysteresis, state.threshold)
        voice = live & (speech >= floor)
        state.onset.copy_(torch.where(voice & (state.onset < 0), state.heard, state.onset))
        state.heard.add_(live * WINDOW)
        state.voiced.copy_(torch.where(voice, state.heard, state.voiced))
        dropped = live & ~voice & ~state.speaking  # a burst that ended before it was long enough
        state.onset.masked_fill_(dropped, -1)

    def _start(self, state: TurnState, live: Tensor, events: list[list[TurnEvent]]) -> None:
        starts = live & ~state.speaking & (state.onset >= 0) & (state.heard - state.onset >= state.min_speech)
        for slot in starts.nonzero().flatten().tolist():
            events[slot].append(SpeechStarted(int(state.onset[slot])))
        state.speaking.logical_or_(starts)

    def _end(self, state: TurnState, live: Tensor, blank: Tensor | None, events: list[list[TurnEvent]]) -> None:
        silence = state.heard - state.voiced
        quiet = silence >= state.end_silence
        if blank is not None:
            quiet = (quiet & (blank >= state.end_blank)) | (silence >= state.max_silence)
        self._close(state, live & state.speaking & quiet, state.voiced, "silence", events)
        long = state.heard - state.onset >= state.max_utterance
        self._close(state, live & state.speaking & long, state.heard, "length", events)

    def _close(
        self,
        state: TurnState,
        ends: Tensor,
        at: Tensor,
        reason: Literal["silence", "length", "end"],
        events: list[list[TurnEvent]],
    ) -> None:
        for slot in ends.nonzero().flatten().tolist():
            events[slot].append(SpeechEnded(int(at[slot]), int(state.heard[slot]), reason))
        state.speaking.logical_and_(~ends)
        state.onset.masked_fill_(ends, -1)
