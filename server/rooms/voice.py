"""The voice room: who is speaking. One voice-activity network and one end-of-utterance rule for all, on one thread.

The same PCM at 16 kHz that goes to the hearing room comes in here as well, on a thread of its own, so that speech is
noticed within a few windows of 32 ms while the recogniser is busy. Turn events go out through each session's sink.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivavoce.speech.turn import Turn, TurnConfig, TurnEvent, TurnState
from vivavoce.speech.vad import WINDOW, Vad, VadState
from vivavoce.streaming.engine import Engine, Slot
from vivavoce.streaming.state import slots_tensor

from .room import Room, Step, Turns

log = logging.getLogger(__name__)

GATHER = 0.005  # seconds: a step costs nearly the same for one session as for ten; each is a delay before words, too
WINDOWS = 16  # of one session in one step, so that one who sends faster than speech does not keep the others waiting


@dataclass(frozen=True)
class Voice:
    """What the windows up to at_sample held: events in order, and the last window's probability of speech. taken: how
    many samples those are. certain: while somebody speaks, the utterance cannot end before this sample; else 0."""

    at_sample: int
    taken: int
    events: tuple[TurnEvent, ...]
    probability: float
    certain: int = 0


@dataclass(frozen=True)
class Mute:
    """The network failed on this session, which has ended."""

    error: Exception


Sink = Callable[[Voice | Mute], None]


@dataclass(eq=False)
class Watching:
    """A session in the room. Its methods may be called from any thread."""

    room: VoiceRoom
    sink: Sink
    config: TurnConfig | None
    slot: Slot | None = None  # from its first window on
    held: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    at_sample: int = 0
    changed_at: int = 0
    closed: bool = False

    def push(self, pcm: NDArray[np.float32]) -> None:
        """(n,) float32 at 16 kHz, any n."""
        self.room.post(lambda: self._push(pcm))

    def changed(self, at_sample: int) -> None:
        """The recogniser's text changed when it had heard so many samples: an utterance does not end on that heel."""
        self.room.post(lambda: setattr(self, "changed_at", max(self.changed_at, at_sample)))

    def configure(self, config: TurnConfig) -> None:
        """From the next window on."""
        self.room.post(lambda: self.room.configure(self, config))

    def close(self) -> None:
        self.room.post(self.leave)

    def leave(self) -> None:
        """On the room's thread."""
        if not self.closed:
            self.closed = True
            self.room.dismiss(self)

    def _push(self, pcm: NDArray[np.float32]) -> None:
        if not self.closed:
            self.held = np.concatenate([self.held, pcm])


class VoiceRoom(Room):
    """places: how many are watched at once. Whoever has a place in the hearing room may open a watch; one that begins
    before the one in its slot has left keeps its audio until then."""

    def __init__(self, vad: Vad, places: int, *, gather: float = GATHER, now: Callable[[], float] = time.monotonic,
                 observe: Callable[[Step], None] = lambda step: None, turns: Turns | None = None) -> None:  # fmt: skip
        super().__init__("voice", places, gather=gather, now=now, observe=observe, turns=turns)
        self._engine: Engine[VadState] = Engine(vad, places)
        self._turn = Turn()
        self._turns = self._turn.init_state(places)
        self._inside: list[Watching] = []

    def open(self, sink: Sink, config: TurnConfig | None = None) -> Watching:
        watching = Watching(self, sink, config)
        self.post(lambda: self._inside.append(watching))
        return watching

    @property
    def taken(self) -> int:
        """Slots in use."""
        return self.places - self._engine.free

    def tick(self) -> bool:
        rows = [w for w in self._inside if len(w.held) >= WINDOW and self._seat(w)]
        if not rows:
            return False
        began = self.now()
        try:
            results = self._step(rows)
        except Exception as e:
            log.exception("a step of the voice room failed for %d sessions", len(rows))
            for row in rows:
                row.leave()
                row.sink(Mute(e))
            return True
        self.observe(Step(self.name, len(rows), self.now() - began))
        for row, voice in zip(rows, results, strict=True):
            row.sink(voice)
        return True

    def _step(self, rows: list[Watching]) -> list[Voice]:
        feeds: dict[Slot, Tensor] = {}
        for row in rows:
            n = min(len(row.held) // WINDOW, WINDOWS) * WINDOW
            feeds[_slot(row)], row.held = torch.from_numpy(row.held[:n]), row.held[n:]
            row.at_sample += n
        out = self._engine.step(feeds)
        speech = [out[_slot(row)][0] for row in rows]
        valid = torch.tensor([len(p) for p in speech])
        padded = torch.nn.utils.rnn.pad_sequence(speech, batch_first=True)
        ends = torch.tensor([row.at_sample for row in rows])
        after = (valid[:, None] - 1 - torch.arange(padded.shape[1])).clamp(min=0) * WINDOW
        blank = (ends[:, None] - after - torch.tensor([row.changed_at for row in rows])[:, None]).clamp(min=0)
        index = slots_tensor(*(_slot(row).index for row in rows))
        turns = self._turns.take(index)
        events = self._turn.step(padded, turns, valid, torch.zeros(len(rows), dtype=torch.bool), blank)
        self._turns.copy_slots_(index, turns, torch.arange(len(rows)))
        return [
            Voice(row.at_sample, len(feeds[_slot(row)]), tuple(e), float(p[-1]), c)
            for row, e, p, c in zip(rows, events, speech, _certain(turns).tolist(), strict=True)
        ]

    def _seat(self, watching: Watching) -> bool:
        """Whether it has a slot; it gets one as soon as there is one."""
        if watching.slot is None and self._engine.free:
            watching.slot = self._engine.open()
            begun = Turn(watching.config).init_state(1)
            self._turns.copy_slots_(slots_tensor(watching.slot.index), begun, slots_tensor(0))
        return watching.slot is not None

    def configure(self, watching: Watching, config: TurnConfig) -> None:
        """On the room's thread, as what follows."""
        watching.config = config
        if watching.slot is not None and not watching.closed:
            self._turns.configure_(watching.slot.index, config)

    def dismiss(self, watching: Watching) -> None:
        self._inside.remove(watching)
        if watching.slot is not None:
            self._engine.close(watching.slot)


def _certain(turns: TurnState) -> Tensor:
    """(slots,), see `Voice`: even if silence began with the last sound, it has to last, or the utterance to be cut."""
    goes_on = torch.minimum(turns.voiced + turns.end_silence, turns.onset + turns.max_utterance)
    return goes_on * turns.speaking


def _slot(watching: Watching) -> Slot:
    assert watching.slot is not None, "a session is stepped only once it is seated"
    return watching.slot
