"""What of a spoken reply has reached the listener's ear, and which words that was.

A client that plays what it is sent plays it in order and in real time; `Playback` reckons with that, and believes the
client's own word over it. A `Track` is the sound of one item with its text; its word times come from the voice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from .signals import SPEAKING_RATE, SpokenWord

NS = 1_000_000_000
_AHEAD = 200  # characters in which a spoken word is looked for


@dataclass
class Track:
    """Samples at 24 kHz. text: all that was to be said; words: where each ends, in samples and in the text; sent: to
    the client; played: by it, as far as is known; took: of those the voice was told; limit: where the item was cut,
    None if it was not; closed: no more is sent."""

    item_id: str
    response_id: str
    speech: int
    text: str = ""
    words: list[tuple[int, int]] = field(default_factory=list)
    sent: int = 0
    played: int = 0
    took: int = 0
    limit: int | None = None
    closed: bool = False
    _cursor: int = 0

    def place(self, words: Sequence[SpokenWord]) -> None:
        """Find spoken words in the text. One counts as heard once its middle was."""
        for word in words:
            at = self.text.find(word.word, self._cursor, self._cursor + _AHEAD + len(word.word))
            if at >= 0:
                self._cursor = at + len(word.word)
            self.words.append(((word.start_sample + word.end_sample) // 2, self._cursor))

    @property
    def heard(self) -> str:
        """The text up to where it was cut."""
        if self.limit is None:
            return self.text
        if self.words:
            return self.text[: max((end for middle, end in self.words if middle <= self.limit), default=0)]
        if self.closed and self.limit >= self.sent:
            return self.text if self.sent else ""
        share = len(self.text) * self.limit // max(self.sent, 1)
        return self.text[:share].rpartition(" ")[0]

    def cut(self, limit: int) -> None:
        self.limit, self.closed = min(limit, self.sent), True


@dataclass
class Playback:
    """The client's loudspeaker, as far as the server can know. Times in ns."""

    tracks: deque[Track] = field(default_factory=deque)
    at: int = 0
    paused: bool = False

    @property
    def playing(self) -> bool:
        """Whether the listener is still to hear something that was sent, paused or not."""
        return any(track.played < track.sent for track in self.tracks)

    def remaining(self) -> int:
        """Nanoseconds until all that was sent has been heard."""
        return sum(track.sent - track.played for track in self.tracks) * NS // SPEAKING_RATE

    def push(self, track: Track, samples: int, now: int) -> None:
        self.advance(now)
        if track not in self.tracks:
            self.tracks.append(track)
        track.sent += samples

    def advance(self, now: int) -> None:
        """Let the time pass."""
        budget = max(0, now - self.at) * SPEAKING_RATE // NS
        if self.paused or not self.playing:
            self.at = max(self.at, now)
            return
        self.at += budget * NS // SPEAKING_RATE
        for track in self.tracks:
            n = min(budget, track.sent - track.played)
            track.played += n
            budget -= n
        if budget:  # it ran dry: time goes on without sound
            self.at = now

    def taken(self) -> list[tuple[int, int]]:
        """How many more samples of which speech were played since this was last asked, for the voice to be told."""
        taken = [(t.speech, t.played - t.took) for t in self.tracks if t.played > t.took]
        for track in self.tracks:
            track.took = max(track.took, track.played)
        while self.tracks and self.tracks[0].closed and self.tracks[0].played >= self.tracks[0].sent:
            self.tracks.popleft()
        return taken

    def acknowledge(self, track: Track, samples: int, now: int) -> None:
        """The client says how much of it was heard."""
        self.advance(now)
        track.played = min(samples, track.sent)

    def drop(self, track: Track) -> None:
        """The client plays no more of it."""
        if track in self.tracks:
            self.tracks.remove(track)
