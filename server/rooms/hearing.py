"""The hearing room: one recogniser, many live streams, one thread.

PCM at 16 kHz comes in from sockets and uploads in pieces of any size and is held until a chunk can be computed; each
step takes the chunks that are due, earliest deadline first. Words go out through each stream's sink. A session takes
one place for as long as it lasts (`enter`, `leave`) and opens a stream for each thing it wants heard.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from vivavoce.speech import audio
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.words import Update, Word
from vivavoce.speech.punctuate import Unwritten, Writer
from vivavoce.streaming.clock import Clock
from vivavoce.streaming.engine import Slot
from vivavoce.streaming.errors import BadLookahead

from .room import Busy, Room, Step, Turns

log = logging.getLogger(__name__)

Pcm = NDArray[np.float32]
SLACK = 0.4  # seconds a live result may come after its chunk was there: 480 ms of lookahead then show within 1 s
HEADSTART = 2.0  # seconds of audio that a live stream may begin with, said before somebody knew it was speech
MEMORY = 2.0  # seconds after which half of a measured lag is forgotten


@dataclass(frozen=True)
class Heard:
    """What one step gave a stream: `words` are final, `tail` may still change, at_sample is how much it rests on.

    taken: how many samples it heard by this step; lag: seconds the result came after they were there; last: nothing
    comes after this.
    """

    at_sample: int
    words: tuple[Word, ...]
    tail: str
    taken: int
    lag: float
    last: bool = False


@dataclass(frozen=True)
class Deaf:
    """The model failed on this stream, which has ended; its words so far stand."""

    error: Exception


Sink = Callable[[Heard | Deaf], None]


@dataclass(eq=False)
class Hearing:
    """A stream in the room. Every method may be called from any thread; what they ask for happens on the room's."""

    room: HearingRoom
    sink: Sink
    lookahead: int
    slot: Slot | None = None  # from its first chunk on
    queue: deque[Pcm] = field(default_factory=deque)
    times: deque[float] = field(default_factory=deque)  # when each of them came
    held: int = 0  # samples in the queue
    arrived: float = 0.0  # when the newest of them came
    taken: int = 0  # samples given to the recogniser
    frames: int = 0  # encoder frames computed
    began: float | None = None  # when its sample 0 would have been said, were it said live
    unwritten: Unwritten = field(default_factory=Unwritten)  # words whose marks are still to be decided
    ending: bool = False
    closed: bool = False

    def push(self, pcm: Pcm) -> None:
        """(n,) float32 at 16 kHz, in [-1, 1]; any n. What comes after `finish` is not heard.

        Raises BadAudio for samples that `audio.check` refuses.
        """
        checked = audio.check(pcm).numpy()
        self.room.post(lambda: self._push(checked))

    def finish(self) -> None:
        """No more audio: the last words follow, then a `Heard` that is `last`."""
        self.room.post(self._finish)

    def set_lookahead(self, lookahead: int) -> None:
        """From the next chunk on, in encoder frames of 80 ms. Raises BadLookahead."""
        self.room.check(lookahead)
        self.room.post(lambda: self._set_lookahead(lookahead))

    def close(self) -> None:
        """Leave, whatever is still queued; twice is once. What is on its way may still reach the sink."""
        self.room.post(self.leave)

    def _push(self, pcm: Pcm) -> None:
        if self.closed or self.ending or not len(pcm):
            return
        self.queue.append(pcm)
        self.times.append(self.room.now())
        self.held += len(pcm)
        self.arrived = self.room.now()
        if self.began is None:
            self.began = self.arrived - min(self.room.clock.seconds(len(pcm)), HEADSTART)

    def _finish(self) -> None:
        self.ending = True
        self.arrived = self.room.now()

    def _set_lookahead(self, lookahead: int) -> None:
        self.lookahead = lookahead
        if self.slot is not None:
            self.room.recognizer.set_lookahead(self.slot, lookahead)

    def leave(self) -> None:
        """On the room's thread."""
        if not self.closed:
            self.closed = True
            self.queue.clear()
            self.times.clear()
            self.room.dismiss(self)

    @property
    def wanted(self) -> int:
        """Samples the next chunk still needs."""
        return self.room.boundary(self.frames, self.lookahead) - self.taken

    @property
    def due(self) -> bool:
        """Whether a step would do something for it."""
        return not self.closed and (self.ending or self.held >= self.wanted)

    @property
    def ready_at(self) -> float:
        """When its chunk could have been computed had it come at the speed of speech: a client that sends faster gets
        what time is left over and takes none from those that speak."""
        samples = min(self.wanted, self.held)
        said = (self.began or 0.0) + self.room.clock.seconds(self.taken + samples)
        return max(self._came(samples), said)

    def _came(self, samples: int) -> float:
        """When the last of the next so many samples came; for the end of a stream, when that was known."""
        for pcm, at in zip(self.queue, self.times, strict=True):
            samples -= len(pcm)
            if samples <= 0:
                return at
        return self.arrived

    @property
    def deadline(self) -> float:
        """When its next chunk comes."""
        return self.ready_at + self.room.clock.seconds(self.room.clock.chunk_samples(self.lookahead))

    def take(self, samples: int) -> Pcm:
        """The oldest samples of the queue, as many as there are of those asked for."""
        parts: list[Pcm] = []
        while samples and self.queue:
            part, at = self.queue.popleft(), self.times.popleft()
            if len(part) > samples:
                self.queue.appendleft(part[samples:])
                self.times.appendleft(at)
                part = part[:samples]
            parts.append(part)
            samples -= len(part)
        out: Pcm = np.concatenate([np.zeros(0, np.float32), *parts])
        self.held -= len(out)
        self.taken += len(out)
        return out


class HearingRoom(Room):
    """One recogniser for all its slots. places: sessions at once, as many as there are slots unless it is said; leave
    some over for sessions that begin a stream while their last one is still being finished. batch: streams in one step
    at most; slack: lag from which nobody more is let in while others are served; writer: how words are written, where
    it is not as they are heard."""

    breath = 0.005  # what the voice room found to be speech comes by way of the event loop

    def __init__(
        self,
        recognizer: Recognizer,
        places: int | None = None,
        *,
        name: str = "hearing",
        batch: int | None = None,
        slack: float = SLACK,
        writer: Writer | None = None,
        now: Callable[[], float] = time.monotonic,
        observe: Callable[[Step], None] = lambda step: None,
        turns: Turns | None = None,
    ) -> None:
        """Raises BadCheckpoint for a recogniser that cannot stream."""
        slots = recognizer.engine.free
        super().__init__(name, places or slots, now=now, observe=observe, turns=turns)
        self.recognizer, self.slack, self.batch, self.writer = recognizer, slack, batch or slots, writer
        self.clock: Clock = recognizer.clock
        self._inside: list[Hearing] = []
        self._lag, self._lag_at = 0.0, 0.0

    def enter(self) -> None:
        """Take a place for a session. Raises Busy, with a hint when to try again, or Closed."""
        if self.taken and self.lag > self.slack:
            message = f"this server is {self.lag:.1f} s behind with the sessions it has; try again in a few seconds"
            raise Busy(message, retry_after=max(1.0, MEMORY))
        super().enter()

    def open(self, sink: Sink, *, lookahead: int = 6) -> Hearing:
        """Start a stream for a session that has a place. Raises BadLookahead."""
        self.check(lookahead)
        hearing = Hearing(self, sink, lookahead)
        self.post(lambda: self._inside.append(hearing))
        return hearing

    def check(self, lookahead: int) -> None:
        """Raises BadLookahead."""
        if not 0 <= lookahead <= self.recognizer.engine.max_lookahead:
            raise BadLookahead(
                f"lookahead {lookahead} is outside 0 to {self.recognizer.engine.max_lookahead} frames; give one inside"
            )

    @property
    def lag(self) -> float:
        """Seconds live results came late of late; it fades."""
        return float(self._lag * 0.5 ** ((self.now() - self._lag_at) / MEMORY))

    def boundary(self, frames: int, lookahead: int) -> int:
        """The samples from which a chunk after so many encoder frames can be computed."""
        return frames * self.clock.frame + self.clock.worst_delay(lookahead) - self.clock.frame

    def tick(self) -> bool:
        rows = self._choose()
        if not rows:
            return False
        began, ready = self.now(), [row.ready_at for row in rows]
        final = [row for row in rows if row.ending and row.held <= row.wanted]
        fed = {row: row.take(row.wanted) for row in rows}
        try:
            updates = self._step(fed, final)
        except Exception as e:  # whatever the model raises ends these streams, not the room
            log.exception("a step of the %s room failed for %d streams", self.name, len(rows))
            for row in rows:
                self._fail(row, e)
            return True
        done = self.now()
        late = [max(0.0, done - at) for at in ready]
        self._note(max(late), done)
        self.observe(Step(self.name, len(rows), done - began, max(late)))
        for row, update, lag in zip(rows, updates, late, strict=True):
            row.frames += row.lookahead + 1
            if row in final:
                row.leave()
            if self.writer is not None:
                row.unwritten, update = self.writer.update(row.unwritten, update, row in final)
            row.sink(Heard(row.taken, update.stable, update.tail, len(fed[row]), lag, row in final))
        return True

    def _choose(self) -> list[Hearing]:
        """The streams of the next step: one lookahead, that of the earliest deadline. Those ahead of the time at which
        their audio would have been said wait while anybody else is due."""
        due = [h for h in sorted((h for h in self._inside if h.due), key=lambda h: h.deadline) if self._seat(h)]
        now = self.now()
        live = [h for h in due if h.ready_at <= now] or due
        return [h for h in live if h.lookahead == live[0].lookahead][: self.batch]

    def _seat(self, hearing: Hearing) -> bool:
        """Whether it has a slot; a stream gets one when it has a chunk, as soon as there is one."""
        if hearing.slot is None and self.recognizer.engine.free:
            hearing.slot = self.recognizer.open(lookahead=hearing.lookahead)
        return hearing.slot is not None

    def _step(self, fed: Mapping[Hearing, Pcm], final: Collection[Hearing]) -> list[Update]:
        feeds = {_slot(row): torch.from_numpy(pcm) for row, pcm in fed.items()}
        with torch.no_grad():
            updates = self.recognizer.step(feeds, [_slot(row) for row in final])
        return [updates[_slot(row)] for row in fed]

    def _note(self, lag: float, now: float) -> None:
        self._lag, self._lag_at = max(lag, self.lag), now

    def _fail(self, hearing: Hearing, error: Exception) -> None:
        hearing.leave()
        hearing.sink(Deaf(error))

    def dismiss(self, hearing: Hearing) -> None:
        """Let go of a stream's slot."""
        self._inside.remove(hearing)
        if hearing.slot is not None:
            self.recognizer.close(hearing.slot)


def _slot(hearing: Hearing) -> Slot:
    assert hearing.slot is not None, "only streams that have a slot are stepped"
    return hearing.slot
