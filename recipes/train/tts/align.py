"""Which sound is where: the phones of a transcript, each with its frames in the recording.

pocketsphinx aligns (its acoustic model comes with the package), told by our own front end how each word is said, so
that a voice is trained on the very phones it will be given. Recordings come from `data`; the aligned go to `speech`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from torch import Tensor

from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.text import normalize
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.phones import PAUSE, SPACE, encode
from vivavoce.speech.tts.pronounce import pronounce

from .data import Recording

RATE = 16_000
CENTRE = 0.8  # a frame of pocketsphinx is 10 ms long and begins 8 ms before the middle of what it hears
BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-30, "pbeam": 1e-30, "wbeam": 1e-20}, {"beam": 1e-70})
MARGIN = 30  # such frames of near silence before and after
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
    """One decoder for many utterances. Raises MissingDependency without pocketsphinx."""

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as e:
            raise MissingDependency("aligning needs pocketsphinx; pip install pocketsphinx") from e
        # its second pass gives up on some sound under one beam and not under another
        self.decoders = [Decoder(lm=None, loglevel="FATAL", **beam) for beam in BEAMS]
        self.known: set[str] = set()

    def align(self, pcm: Tensor, text: str) -> Aligned | None:
        """pcm: (n,) float32 at 24 kHz. None where the sound does not fit the text."""
        words, ends = _script(text)
        if not words:
            return None
        entries = self._entries([(word, phones) for word, phones in words])
        low = soxr.resample(pcm.numpy(), mel.RATE, RATE)
        for decoder in self.decoders:
            heard = self._segments(decoder, entries, low)
            if heard and (aligned := _lay_out(heard, [p for _, p in words], ends, len(pcm) // mel.HOP)):
                return aligned
        return None

    def _entries(self, words: list[tuple[str, tuple[str, ...]]]) -> list[str]:
        """Names in the decoder's dictionary for words said this way."""
        names = []
        for _, phones in words:
            plain = [p.rstrip("012") for p in phones]
            name = "_".join(plain).lower() + "_w"
            if name not in self.known:
                for decoder in self.decoders:
                    decoder.add_word(name, " ".join(plain), True)
                self.known.add(name)
            names.append(name)
        return names

    @staticmethod
    def _segments(decoder: Any, entries: list[str], pcm: np.ndarray[Any, Any]) -> list[tuple[str, int, int]] | None:
        """(phone or SIL, first frame of 10 ms, frames) of everything heard."""
        # without silence about it the decoder gives up the last word of a tightly cut recording
        noise = np.random.default_rng(0).normal(0, 1e-4, len(pcm) + 2 * MARGIN * RATE // 100).astype(np.float32)
        noise[MARGIN * RATE // 100 : MARGIN * RATE // 100 + len(pcm)] += pcm
        data = (noise * 32767).clip(-32768, 32767).astype(np.int16).tobytes()
        try:
            decoder.set_align_text(" ".join(entries))
            _decode(decoder, data)
            if decoder.hyp() is None:
                return None
            decoder.set_alignment()
            _decode(decoder, data)
            return [(phone.name, max(0, phone.start - MARGIN), phone.duration)
                    for word in decoder.get_alignment() for phone in word]
        except RuntimeError:  # no path through the words
            return None


def _decode(decoder: Any, data: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()


def _script(text: str) -> tuple[list[tuple[str, tuple[str, ...]]], list[str]]:
    """Each word with its phones, and the separator after it."""
    words, ends = [], []
    for clause in clauses(text):
        said = [(w, p) for w, p in zip(clause.words, pronounce(clause.words), strict=True) if p]
        words += said
        ends += [SPACE] * (len(said) - 1) + [clause.end] if said else []
    return words, ends


def _lay_out(heard: list[tuple[str, int, int]], words: list[tuple[str, ...]], ends: list[str],
             frames: int) -> Aligned | None:
    """Segments as the symbols of a phrase. Frames are counted from one boundary to the next, so none is lost."""
    symbols, starts = [PAUSE], [0.0]
    segments = iter([(name, start) for name, start, _ in heard])
    segment = next(segments, None)
    for phones, end in zip(words, ends, strict=True):
        for phone in phones:
            while segment is not None and segment[0] in ("SIL", "<sil>", "+NOISE+", "+SPN+"):
                segment = next(segments, None)
            if segment is None or segment[0] != phone.rstrip("012"):
                return None
            symbols.append(phone)
            starts.append((segment[1] + CENTRE) / 2)
            segment = next(segments, None)
        symbols.append(end)
        after = segment[1] if segment is not None else 2 * frames
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
