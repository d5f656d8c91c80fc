"""One utterance of the user as it is heard, and what the listener tells the conversation of it.

Positions are samples at 16 kHz since the session began.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vivavoce.speech.asr.words import Word


@dataclass(eq=False)
class Utterance:
    """start: where its stream begins; fed: up to where it was heard; stop: where its speech ended; cut: what lies
    beyond belongs to the next. decided: ns when it was known to be over, after so much `silence` and ns `waited` for
    its words to decide; settled: ns when they were final; quiet_since: ns, in a silence that may or may not end it.
    manual: the client ends it; over: no more words come; failed: because the recogniser broke down."""

    item_id: str
    stream: int
    start: int
    fed: int
    manual: bool
    words: list[Word] = field(default_factory=list)
    tail: str = ""
    stop: int | None = None
    cut: int | None = None
    decided: int | None = None
    silence: int = 0
    waited: int = 0
    settled: int = 0
    quiet_since: int | None = None
    over: bool = False
    failed: bool = False

    @property
    def text(self) -> str:
        return " ".join(w.word for w in self.words)


@dataclass(frozen=True)
class Began:
    utterance: Utterance


@dataclass(frozen=True)
class Changed:
    """Its words did; stable: the final ones too."""

    utterance: Utterance
    stable: bool


@dataclass(frozen=True)
class Ended:
    """It is over and committed; its last words are still to come."""

    utterance: Utterance


@dataclass(frozen=True)
class Settled:
    """Its words are final."""

    utterance: Utterance


Note = Began | Changed | Ended | Settled
