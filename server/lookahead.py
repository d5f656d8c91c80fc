"""How far ahead a session's recogniser listens: what the client asked for, or more while words come unclear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vivavoce.speech.asr.words import Word

LADDER = (0, 1, 6, 13)  # encoder frames that adapting goes through
UNCLEAR, CLEAR = 0.6, 0.85  # mean confidence of the last words
RECENT = 8  # words


@dataclass
class Lookahead:
    """asked, frames: in encoder frames of 80 ms; frames is what holds now and never less than asked."""

    asked: int = 0
    frames: int = 0
    adaptive: bool = False
    _recent: list[float] = field(default_factory=list)

    def set(self, asked: int, adaptive: bool) -> None:
        if (asked, adaptive) != (self.asked, self.adaptive):
            self.asked, self.adaptive, self.frames = asked, adaptive, asked
            self._recent.clear()

    def heard(self, words: Sequence[Word]) -> None:
        """One step up when the last words were unclear, one down when they were clear."""
        self._recent = [*self._recent, *(w.confidence for w in words)][-RECENT:]
        if not self.adaptive or len(self._recent) < RECENT:
            return
        mean = sum(self._recent) / RECENT
        steps = [self.asked, *(r for r in LADDER if r > self.asked)]
        at = steps.index(self.frames)
        if mean < UNCLEAR or mean > CLEAR:
            self.frames = steps[min(at + 1, len(steps) - 1) if mean < UNCLEAR else max(at - 1, 0)]
            self._recent.clear()
