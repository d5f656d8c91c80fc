"""Where in a recording each phone is said: pocketsphinx lays a transcript's phones along the sound.

`PhoneAligner` takes words as phones and 16 kHz samples; `main` writes the phones of whole corpora to one JSON file,
which the recogniser's training reads (`Phones`). A voice's training asks `PhoneAligner` itself. The acoustic model
comes with the pocketsphinx package.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vivavoce.recipes.data import sources
from vivavoce.recipes.data.batches import RATE, read_audio
from vivavoce.recipes.data.labels import Timed
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.speech.errors import BadConfig, MissingDependency
from vivavoce.speech.text import normalize
from vivavoce.speech.tts.pronounce import pronounce
from vivavoce.streaming.errors import VivaVoceError

# its second pass gives up on some sound under one beam and not under another
BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-30, "pbeam": 1e-30, "wbeam": 1e-20}, {"beam": 1e-70})
HOP = RATE // 100  # samples of a frame of pocketsphinx
MARGIN = 30  # such frames of near silence before and after
SHARE = 50  # recordings that one process does at a time
SILENCE = "SIL"
_NOT_PHONES = ("SIL", "<sil>", "+NOISE+", "+SPN+")


class Segment(NamedTuple):
    """An ARPAbet phone without stress, or SILENCE; its first frame of 10 ms, and how many there are."""

    phone: str
    start: int
    frames: int


class PhoneAligner:
    """One decoder for many utterances. Raises MissingDependency without pocketsphinx."""

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as e:
            raise MissingDependency("aligning needs pocketsphinx; pip install pocketsphinx") from e
        self.decoders = [Decoder(lm=None, loglevel="FATAL", **beam) for beam in BEAMS]
        self.known: set[str] = set()

    def attempts(self, words: Sequence[Sequence[str]], pcm: npt.NDArray[np.float32]) -> Iterator[list[Segment]]:
        """What each beam in turn finds, nothing where it finds no way through.

        words: ARPAbet phones of each word, with or without stress; pcm: (n,) at 16 kHz in [-1, 1].
        """
        entries = [self._entry(word) for word in words]
        # without silence about it the decoder gives up the last word of a tightly cut recording
        noise = np.random.default_rng(0).normal(0, 1e-4, len(pcm) + 2 * MARGIN * HOP).astype(np.float32)
        noise[MARGIN * HOP : MARGIN * HOP + len(pcm)] += pcm
        data = (noise * 32767).clip(-32768, 32767).astype(np.int16).tobytes()
        for decoder in self.decoders:
            if found := _segments(decoder, " ".join(entries), data):
                yield found

    def _entry(self, word: Sequence[str]) -> str:
        """The name in the decoders' dictionaries for a word said this way."""
        plain = [p.rstrip("012") for p in word]
        name = "_".join(plain).lower() + "_w"
        if name not in self.known:
            for decoder in self.decoders:
                decoder.add_word(name, " ".join(plain), True)
            self.known.add(name)
        return name


def _segments(decoder: Any, entries: str, data: bytes) -> list[Segment]:
    try:
        decoder.set_align_text(entries)
        _decode(decoder, data)
        if decoder.hyp() is None:
            return []
        decoder.set_alignment()
        _decode(decoder, data)
        return [Segment(SILENCE if p.name in _NOT_PHONES else p.name, max(0, p.start - MARGIN), p.duration)
                for word in decoder.get_alignment() for p in word]
    except RuntimeError:  # no path through the words
        return []


def _decode(decoder: Any, data: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()


class Phones:
    """The phones of recordings, kept in a JSON file: {path from the corpora's folder: [text, [[sample, phone], ...]]}.

    Raises BadConfig where the file cannot be read.
    """

    def __init__(self, file: Path, root: Path) -> None:
        try:
            self.kept: dict[str, Any] = json.loads(file.read_text())
            if not isinstance(self.kept, dict):
                raise ValueError("not an object of recordings")
        except (OSError, ValueError) as e:
            raise BadConfig(f"{file}: no phones there ({e}); `vivavoce data align` writes them") from e
        self.root = root

    def of(self, utterance: Utterance) -> Timed | None:
        """None where the recording was not aligned, or not with this text."""
        entry = self.kept.get(_key(utterance, self.root))
        if entry is None or entry[0] != utterance.text or not entry[1]:
            return None
        return [(sample, phone) for sample, phone in entry[1]]


def _key(utterance: Utterance, root: Path) -> str:
    return Path(os.path.relpath(utterance.path, root)).as_posix()


def align(utterances: Sequence[Utterance]) -> list[list[tuple[int, str]]]:
    """Their phones; an empty list where a transcript does not fit its sound."""
    aligner = PhoneAligner()
    made: list[list[tuple[int, str]]] = []
    for u in utterances:
        words = [phones for phones in pronounce(normalize(u.text).split()) if phones]
        pcm = read_audio(u).astype(np.float32) / np.float32(32768)
        found = next(aligner.attempts(words, pcm), []) if words else []
        made.append([(s.start * HOP, s.phone) for s in found])
    return made


def main(argv: list[str]) -> int:
    """The command; exit code 0 done, 1 failed (said on stderr), 2 bad usage."""
    parser = argparse.ArgumentParser(prog="vivavoce data align",
                                     description="Find where each phone of the recordings to train on is said.")
    parser.add_argument("--speech-dir", type=Path, required=True, help="folder of corpora, one manifest.tsv each")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; what it holds already is not done again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    try:
        kept = _align_corpora(args.speech_dir, args.out, args.jobs)
    except VivaVoceError as e:
        print(f"vivavoce data: {e}", file=sys.stderr)
        return 1
    lost = sum(not timed for _, timed in kept.values())
    print(f"{args.out}: phones of {len(kept) - lost:,} recordings; {lost:,} did not fit their transcripts")
    return 0


def _align_corpora(speech: Path, out: Path, jobs: int) -> dict[str, Any]:
    """What the file holds in the end; it is written after every share, so that a stopped run goes on."""
    kept: dict[str, Any] = Phones(out, speech).kept if out.exists() else {}
    spoken, _ = sources.human(speech)
    todo = [u for u in spoken if kept.get(_key(u, speech), [None])[0] != u.text]
    shares = [todo[i : i + SHARE] for i in range(0, len(todo), SHARE)]
    if not shares:
        return kept
    out.parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(min(max(jobs, 1), len(shares))) as pool:
        for number, (share, found) in enumerate(zip(shares, pool.imap(align, shares), strict=True)):
            kept |= {_key(u, speech): [u.text, timed] for u, timed in zip(share, found, strict=True)}
            _write(out, kept)
            print(f"{min(SHARE * (number + 1), len(todo)):,} of {len(todo):,}", file=sys.stderr, flush=True)
    return kept


def _write(file: Path, kept: Mapping[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(kept))
    part.replace(file)
