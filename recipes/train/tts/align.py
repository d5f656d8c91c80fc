"""Which sound is where: the phones of a transcript, each with its frames in the recording.

The aligner of `recipes/data/align.py` is told by our own front end how each word is said, so that a voice is trained on
the very phones it will be given. Recordings come from `data`; the aligned go to `speech`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import soxr
from torch import Tensor

from vivavoce.recipes.data.align import SILENCE, PhoneAligner, Segment
from vivavoce.recipes.data.batches import RATE
from vivavoce.speech.text import normalize
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.phones import PAUSE, SPACE, encode
from vivavoce.speech.tts.pronounce import pronounce

from .data import Recording

CENTRE = 0.8  # a frame of pocketsphinx is 10 ms long and begins 8 ms before the middle of what it hears
_MARKS = re.compile(r"(?:[\"')\]]*)([,;:.?!()\[\]]+|--+|—|–|…)[\"'(\[]*(?=\s|$)|(?<=\s)[(\[]")
_SEPARATOR = {"?": "?", "!": "!", ".": ".", ";": ";", ":": ";", ",": ",", "(": ",", ")": ",", "[": ",", "]": ","}


class Aligned(NamedTuple):
    """Phones of an utterance laid out as phones.py says, and how many frames each of them lasts."""

    phones: list[int]
    durations: list[int]


class Clause(NamedTuple):
    """Words that no mark divides, and the separator after the last of them."""

    words: list[str]
    end: str


def clauses(text: str) -> Iterator[Clause]:
    """A transcript in pieces; the last always ends as a sentence does."""
    pieces = []
    start = 0
    for match in _MARKS.finditer(text):
        pieces.append((text[start : match.start()], match.group().strip("\"'")))
        start = match.end()
    pieces.append((text[start:], "."))
    spoken = [(normalize(words).split(), mark) for words, mark in pieces]
    kept = [(words, mark) for words, mark in spoken if words]
    if [w for words, _ in kept for w in words] != normalize(text).split():  # a mark inside a number or an abbreviation
        kept = [(normalize(text).split(), ".")]
    for i, (words, mark) in enumerate(kept):
        last = i == len(kept) - 1
        sign = next((sign for c, sign in _SEPARATOR.items() if c in mark), ";")
        yield Clause(words, sign if not last or sign in ".?!" else ".")


class Aligner:
    """One aligner for many utterances. Raises MissingDependency without pocketsphinx."""

    def __init__(self) -> None:
        self.phones = PhoneAligner()

    def align(self, pcm: Tensor, text: str) -> Aligned | None:
        """pcm: (n,) float32 at 24 kHz. None where the sound does not fit the text."""
        words, ends = _script(text)
        if not words:
            return None
        low = soxr.resample(pcm.numpy(), mel.RATE, RATE)
        for heard in self.phones.attempts([phones for _, phones in words], low):
            if aligned := _lay_out(heard, [p for _, p in words], ends, len(pcm) // mel.HOP):
                return aligned
        return None


def _script(text: str) -> tuple[list[tuple[str, tuple[str, ...]]], list[str]]:
    """Each word with its phones, and the separator after it."""
    words, ends = [], []
    for clause in clauses(text):
        said = [(w, p) for w, p in zip(clause.words, pronounce(clause.words), strict=True) if p]
        words += said
        ends += [SPACE] * (len(said) - 1) + [clause.end] if said else []
    return words, ends


def _lay_out(heard: list[Segment], words: list[tuple[str, ...]], ends: list[str],
             frames: int) -> Aligned | None:
    """Segments as the symbols of a phrase. Frames are counted from one boundary to the next, so none is lost."""
    symbols, starts = [PAUSE], [0.0]
    segments = iter(heard)
    segment = next(segments, None)
    for phones, end in zip(words, ends, strict=True):
        for phone in phones:
            while segment is not None and segment.phone == SILENCE:
                segment = next(segments, None)
            if segment is None or segment.phone != phone.rstrip("012"):
                return None
            symbols.append(phone)
            starts.append((segment.start + CENTRE) / 2)
            segment = next(segments, None)
        symbols.append(end)
        after = segment.start if segment is not None else 2 * frames
        starts.append(min((after + CENTRE) / 2, frames))
    edges = [min(round(s), frames) for s in starts] + [frames]
    durations = [b - a for a, b in pairwise(edges)]
    if durations[0] == 0:
        symbols, durations = symbols[1:], durations[1:]
    return Aligned(encode(symbols), durations)


def align_all(recordings: Sequence[Recording], cache: Path) -> list[Aligned | None]:
    """Every recording's alignment, read from the cache where its text is still the same."""
    kept: dict[str, Any] = json.loads(cache.read_text()) if cache.is_file() else {}
    aligner: Aligner | None = None
    for r in recordings:
        if kept.get(r.path, {}).get("text") != r.text:
            aligner = aligner or Aligner()
            found = aligner.align(r.pcm.float() / 32768, r.text)
            kept[r.path] = {"text": r.text, "aligned": found}
    if aligner is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(kept))
    return [Aligned(*kept[r.path]["aligned"]) if kept[r.path]["aligned"] else None for r in recordings]


def known(folder: Path, corpora: Sequence[str]) -> list[Aligned]:
    """What the caches of a run hold."""
    files = [path for corpus in corpora if (path := folder / f"{corpus}.json").is_file()]
    return [Aligned(*found["aligned"]) for path in files for found in json.loads(path.read_text()).values()
            if found["aligned"]]
