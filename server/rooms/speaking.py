"""The speaking room: one voice, many sessions, one thread.

Text comes in pieces, as a language model or a request brings it; sound goes out through each session's sink as soon as
the synthesizer has it, and no further ahead of the listener than `LEAD`, so a slow listener costs neither work nor
memory.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .room import Room, Step

log = logging.getLogger(__name__)

Pcm = NDArray[np.float32]
LEAD = 20.0  # seconds of sound that may wait for the listener before more text is given to the voice
PIECE = re.compile(r"\S{1,200}\s*|\s+")
PIECE_CHARS = 160  # about ten seconds


class SpokenWord(Protocol):
    """When a word is said, in samples since the session began to speak."""

    @property
    def word(self) -> str: ...
    @property
    def start_sample(self) -> int: ...
    @property
    def end_sample(self) -> int: ...


class Speech(Protocol):
    """What one step of a synthesizer gave one session."""

    @property
    def pcm(self) -> Any: ...
    @property
    def words(self) -> Sequence[SpokenWord]: ...
    @property
    def done(self) -> bool: ...
    @property
    def error(self) -> Exception | None: ...


class Synthesizer(Protocol):
    """What the room needs of `speech.tts.synthesizer.Synthesizer`; `Any` stands for its slots."""

    @property
    def sample_rate(self) -> int: ...
    def open(self, *, rate: float = 1.0, seed: int = 0) -> Any: ...
    def push(self, slot: Any, text: str) -> None: ...
    def finish(self, slot: Any) -> None: ...
    def step(self) -> Mapping[Any, Speech]: ...
    def close(self, slot: Any) -> None: ...


@dataclass(frozen=True)
class Spoken:
    """Sound, (n,) float32 at the voice's rate, and the words that begin in it; last: nothing comes after it."""

    pcm: Pcm
    words: tuple[SpokenWord, ...]
    last: bool


@dataclass(frozen=True)
class Hoarse:
    """The voice failed on this session, which has ended."""

    error: Exception


Sink = Callable[[Spoken | Hoarse], None]


@dataclass(eq=False)
class Speaking:
    """A session in the room. Its methods may be called from any thread."""

    room: SpeakingRoom
    sink: Sink
    rate: float
    seed: int
    slot: Any = None
    text: deque[str] = field(default_factory=deque)
    made: int = 0  # samples given out
    played: int = 0  # samples the listener has taken
    finished: bool = False  # no more text comes
    told: bool = False  # and the synthesizer knows
    hungry: bool = True  # the last step had nothing more to say
    closed: bool = False

    def say(self, text: str) -> None:
        """Any piece of text, as it comes."""
        self.room.post(lambda: self._say(text))

    def finish(self) -> None:
        """No more text: the rest is spoken, then comes a `Spoken` that is `last`."""
        self.room.post(lambda: setattr(self, "finished", True))

    def took(self, samples: int) -> None:
        """The listener has taken so many more samples."""
        self.room.post(lambda: setattr(self, "played", self.played + samples))

    def close(self) -> None:
        """Fall silent, whatever is still to be said; twice is once."""
        self.room.post(self.leave)

    def leave(self) -> None:
        """On the room's thread."""
        if not self.closed:
            self.closed = True
            self.text.clear()
            self.room.dismiss(self)

    def _say(self, text: str) -> None:
        if not (self.closed or self.finished):
            self.text.extend(pieces(text))

    def feed(self, lead: int) -> bool:
        """Give the voice its next text once it has said what it has, unless that is far enough ahead of the listener;
        says whether there was any."""
        if self.told or not self.hungry or self.made - self.played >= lead:
            return False
        if self.text:
            self.room.synthesizer.push(self.slot, self.text.popleft())
            return True
        if self.finished:
            self.told = True
            self.room.synthesizer.finish(self.slot)
        return self.finished


class SpeakingRoom(Room):
    """places: the sessions that the synthesizer has slots for."""

    def __init__(
        self,
        synthesizer: Synthesizer,
        places: int,
        *,
        lead: float = LEAD,
        now: Callable[[], float] = time.monotonic,
        observe: Callable[[Step], None] = lambda step: None,
    ) -> None:
        super().__init__("speaking", places, now=now, observe=observe)
        self.synthesizer, self.lead = synthesizer, round(lead * synthesizer.sample_rate)
        self._inside: dict[Any, Speaking] = {}

    def open(self, sink: Sink, *, rate: float = 1.0, seed: int = 0) -> Speaking:
        """rate: 1 is the voice's own speed. Raises Busy, with a hint when to try again; Closed."""
        self.enter()
        speaking = Speaking(self, sink, rate, seed)
        self.post(lambda: self.admit(speaking))
        return speaking

    def tick(self) -> bool:
        fed = [self._fed(speaking) for speaking in list(self._inside.values())]
        began = self.now()
        try:
            made = self.synthesizer.step()
        except Exception as e:  # whatever the model raises ends these sessions, not the room
            log.exception("a step of the speaking room failed for %d sessions", len(self._inside))
            for speaking in list(self._inside.values()):
                self._fail(speaking, e)
            return True
        starved = [s for slot, s in self._inside.items() if slot not in made and not s.hungry]
        for slot, speaking in self._inside.items():
            speaking.hungry = slot not in made
        if made:
            self.observe(Step(self.name, len(made), self.now() - began))
        for slot, speech in made.items():
            speaking = self._inside[slot]
            if speech.error:  # ours to find: what is wrong with a text was said when it was fed
                log.error("the voice failed on a session of the speaking room", exc_info=speech.error)
                self._fail(speaking, speech.error)
                continue
            pcm = np.asarray(speech.pcm, dtype=np.float32)
            speaking.made += len(pcm)
            speaking.sink(Spoken(pcm, tuple(speech.words), speech.done))
            if speech.done:
                speaking.leave()
        return bool(made or starved) or any(fed)

    def _fed(self, speaking: Speaking) -> bool:
        """A text that cannot be read ends its own session only."""
        try:
            return speaking.feed(self.lead)
        except Exception as e:
            self._fail(speaking, e)
            return True

    def _fail(self, speaking: Speaking, error: Exception) -> None:
        speaking.leave()
        speaking.sink(Hoarse(error))

    def admit(self, speaking: Speaking) -> None:
        try:
            speaking.slot = self.synthesizer.open(rate=speaking.rate, seed=speaking.seed)
        except Exception as e:
            speaking.closed = True
            self.leave()
            speaking.sink(Hoarse(e))
        else:
            self._inside[speaking.slot] = speaking

    def dismiss(self, speaking: Speaking) -> None:
        """Let go of a session's slot."""
        del self._inside[speaking.slot]
        self.synthesizer.close(speaking.slot)
        self.leave()


def pieces(text: str) -> list[str]:
    """The same text in pieces of about ten seconds of speech, cut between words."""
    out = [""]
    for part in PIECE.findall(text):
        if len(out[-1]) + len(part) > PIECE_CHARS:
            out.append("")
        out[-1] += part
    return [piece for piece in out if piece]
