"""New sentences out of recorded ones: runs of words are exchanged between recordings whose words are timed.

Aligned data augmentation (Lam et al., arXiv 2104.01393). Phones and their times come from `align`; what leaves is a
recording as any other: sound, text, timed phones. A small corpus says few sentences, which training otherwise learns by
heart, sound and text at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vivavoce.recipes.data.augment import RATE, Audio, Stored
from vivavoce.recipes.data.labels import Timed
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.speech.text import normalize
from vivavoce.speech.tts.pronounce import pronounce

FADE = RATE // 100  # samples over which one recording goes over into another
LONGEST = 4  # words that are exchanged at once
OFTEN = 6  # words of a recording for each exchange
STRETCH = (0.75, 1.25)  # how much shorter or longer a recording may become


class Word(NamedTuple):
    """start, end: samples; phones: with their own first samples."""

    text: str
    start: int
    end: int
    phones: tuple[tuple[int, str], ...]


class Spliced(NamedTuple):
    audio: Audio
    text: str
    phones: list[tuple[int, str]]


def words_of(text: str, timed: Timed, samples: int) -> list[Word]:
    """The words of an aligned recording with their times; none where phones and words do not match."""
    words = normalize(text).split()
    said = list(zip(words, pronounce(words), strict=True))  # as `align` had it
    ends = [*(start for start, _ in timed[1:]), samples]
    sounds = [(start, end, phone) for (start, phone), end in zip(timed, ends, strict=True) if phone != "SIL"]
    if not all(phones for _, phones in said) or sum(len(phones) for _, phones in said) != len(sounds):
        return []
    found, at = list[Word](), 0
    for word, phones in said:
        own = sounds[at : at + len(phones)]
        found.append(Word(word, own[0][0], own[-1][1], tuple((start, phone) for start, _, phone in own)))
        at += len(phones)
    return found


class Splicer:
    """Exchanges words between the recordings of one corpus, of one speaker where it has several.

    share: of the aligned recordings that are changed. audio: a recording's samples by its number; timed: its phones.
    What is drawn depends only on (seed, number, epoch).
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        audio: Callable[[int], Stored],
        timed: Callable[[Utterance], Timed | None],
        share: float,
        seed: int,
    ) -> None:
        self.utterances, self.audio, self.timed, self.share, self.seed = utterances, audio, timed, share, seed
        self._words: dict[int, list[Word]] = {}
        self._corpus: dict[str, list[int]] = {}
        self._speaker: dict[tuple[str, str], list[int]] = {}
        for i, u in enumerate(utterances):
            if normalize(u.text) and timed(u):
                self._corpus.setdefault(u.corpus, []).append(i)
                self._speaker.setdefault((u.corpus, u.speaker), []).append(i)

    def __call__(self, index: int, epoch: int) -> Spliced | None:
        """The recording with some of its words exchanged for others'; None where it stays as it is."""
        rng = np.random.default_rng((self.seed, index, epoch, 1))
        if rng.random() >= self.share:
            return None
        own = self.words(index)
        if len(own) < 2:
            return None
        now = _whole(self.audio(index), own)
        for _ in range(1 + len(own) // OFTEN):
            other = self._partner(index, rng)
            theirs = self.words(other)
            if theirs:
                now = _exchange(now, _whole(self.audio(other), theirs), len(self.audio(index)), rng)
        return None if now.words == own else Spliced(now.audio, " ".join(w.text for w in now.words), now.phones)

    def words(self, index: int) -> list[Word]:
        """Of one recording; none where it was not aligned."""
        if index not in self._words:
            u = self.utterances[index]
            timed = self.timed(u)
            self._words[index] = words_of(u.text, timed, len(self.audio(index))) if timed else []
        return self._words[index]

    def _partner(self, index: int, rng: np.random.Generator) -> int:
        u = self.utterances[index]
        same = self._speaker.get((u.corpus, u.speaker), [])
        among = same if len(same) > 1 else self._corpus.get(u.corpus, [index])
        return among[int(rng.integers(len(among)))]


class _Recording(NamedTuple):
    audio: Audio
    words: list[Word]

    @property
    def phones(self) -> list[tuple[int, str]]:
        """With silence wherever no word is."""
        found, end = list[tuple[int, str]](), 0
        for word in self.words:
            if not found or word.start > end:
                found.append((end, "SIL"))
            found += word.phones
            end = word.end
        return [*found, (end, "SIL")]


def _whole(stored: Stored, words: list[Word]) -> _Recording:
    return _Recording(stored.astype(np.float32) / np.float32(32768), words)


def _exchange(own: _Recording, theirs: _Recording, samples: int, rng: np.random.Generator) -> _Recording:
    """One run of words for another; as it was where the result would be too short or too long for `samples`."""
    a, b = _run(len(own.words), rng)
    c, d = _run(len(theirs.words), rng)
    start, end = own.words[a].start, own.words[b - 1].end
    first, last = theirs.words[c].start, theirs.words[d - 1].end
    piece = theirs.audio[first:last]
    longer = len(piece) - (end - start)
    if not STRETCH[0] * samples <= len(own.audio) + longer <= STRETCH[1] * samples or len(piece) < 2 * FADE:
        return own
    piece = piece * (_loudness(own) / max(_loudness(theirs), 1e-6))
    audio = _joined(_joined(own.audio[:start], piece), own.audio[end:])
    words = [
        *own.words[:a],
        *(_moved(w, start - first) for w in theirs.words[c:d]),
        *(_moved(w, longer) for w in own.words[b:]),
    ]
    return _Recording(audio, words)


def _run(count: int, rng: np.random.Generator) -> tuple[int, int]:
    """Where a run of 1 to LONGEST words, but never all of them, begins and ends."""
    length = int(rng.integers(1, min(LONGEST, max(count - 1, 1)) + 1))
    start = int(rng.integers(count - length + 1))
    return start, start + length


def _moved(word: Word, by: int) -> Word:
    return Word(word.text, word.start + by, word.end + by, tuple((start + by, phone) for start, phone in word.phones))


def _loudness(recording: _Recording) -> float:
    """Root mean square of its words."""
    said = recording.audio[recording.words[0].start : recording.words[-1].end]
    return float(np.sqrt(np.mean(np.square(said, dtype=np.float64)))) if len(said) else 0.0


def _joined(a: Audio, b: Audio) -> Audio:
    """One after the other, of the length of both: each fades at the seam, so that nothing jumps."""
    joined = np.concatenate([a, b]).astype(np.float32)
    n = min(FADE, len(a), len(b))
    if n:
        ramp = np.linspace(0, 1, n, endpoint=False, dtype=np.float32)
        joined[len(a) - n : len(a)] *= 1 - ramp
        joined[len(a) : len(a) + n] *= ramp
    return joined
