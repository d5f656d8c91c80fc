"""A voice for tests: every letter is 10 ms of a tone that the letter decides, every word knows its place. It speaks
whole words only, as a synthesizer speaks whole phrases, and many sessions in one step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vivavoce.streaming.errors import Full

RATE = 24000
LETTER = 240  # samples


@dataclass(frozen=True)
class Word:
    word: str
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class Speech:
    pcm: NDArray[np.float32]
    words: tuple[Word, ...]
    done: bool
    error: Exception | None = None


@dataclass
class Session:
    text: str = ""
    made: int = 0
    finished: bool = False
    done: bool = False


@dataclass
class Hum:
    """A Synthesizer of `server.rooms.speaking`. pushed: how many characters it was given."""

    slots: int = 4
    sample_rate: int = RATE
    pushed: int = 0
    steps: int = 0
    sessions: dict[int, Session] = field(default_factory=dict)
    _next: int = 0

    def open(self, *, rate: float = 1.0, seed: int = 0) -> int:
        if len(self.sessions) >= self.slots:
            raise Full("no slot")
        self._next += 1
        self.sessions[self._next] = Session()
        return self._next

    def push(self, slot: int, text: str) -> None:
        if "<" in text:
            raise ValueError(f"cannot read {text!r}")
        self.sessions[slot].text += text
        self.pushed += len(text)

    def finish(self, slot: int) -> None:
        self.sessions[slot].finished = True

    def step(self) -> dict[int, Speech]:
        out = {}
        for slot, s in self.sessions.items():
            head, space, rest = s.text.partition(" ")
            if s.done or not (space or s.finished):
                continue
            pcm = hum(head + space)
            word = (Word(head, s.made, s.made + LETTER * len(head)),) if head else ()
            s.text, s.made, s.done = rest, s.made + len(pcm), s.finished and not rest
            out[slot] = Speech(pcm, word, s.done)
        self.steps += bool(out)
        return out

    def close(self, slot: int) -> None:
        del self.sessions[slot]


def hum(text: str) -> NDArray[np.float32]:
    """The sound of a whole text."""
    pitch = np.repeat([0.0 if c == " " else 0.05 + ord(c) / 1000 for c in text], LETTER)
    return (0.4 * np.sin(np.cumsum(pitch))).astype(np.float32)
