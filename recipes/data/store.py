"""All of a run's audio decoded once, in one file that every worker process maps: no decoding while a GPU waits.

Recordings come from manifests and are decoded by many processes; what leaves is int16 at 16 kHz, read through `Store`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivavoce.recipes.data.augment import Stored
from vivavoce.recipes.data.batches import read_audio
from vivavoce.recipes.data.manifest import Utterance

SHARE = 200  # recordings a process decodes at a time


@dataclass(frozen=True)
class Store:
    """audio: (samples,) int16 of everything, mapped from disk; starts: (recordings + 1,) where each begins."""

    audio: Stored
    starts: tuple[int, ...]

    def __getitem__(self, index: int) -> Stored:
        return self.audio[self.starts[index] : self.starts[index + 1]]

    def __len__(self) -> int:
        return len(self.starts) - 1


def build(utterances: Sequence[Utterance], folder: Path, jobs: int) -> Store:
    """Decode the recordings in order into `folder`, or take what lies there if it is of the same ones.

    One that was cut off begins anew. Raises BadAudio for a recording that cannot be decoded.
    """
    names = "\n".join(f"{u.path.resolve()} {u.seconds}" for u in utterances)
    digest = hashlib.sha256(names.encode()).hexdigest()
    file, index = folder / "audio.int16", folder / "audio.json"
    known = json.loads(index.read_text()) if index.exists() else {}
    if known.get("digest") != digest:
        folder.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)
        starts = _decode(utterances, file, jobs)
        index.write_text(json.dumps({"digest": digest, "starts": starts}))
        known = {"starts": starts}
    audio = np.memmap(file, np.int16, "r") if known["starts"][-1] else np.zeros(0, np.int16)
    return Store(audio, tuple(known["starts"]))


def _decode(utterances: Sequence[Utterance], file: Path, jobs: int) -> list[int]:
    """Write every recording's samples; returns where each begins, and the end."""
    starts, shares = [0], [utterances[i : i + SHARE] for i in range(0, len(utterances), SHARE)]
    with file.open("wb") as out:
        for number, share in enumerate(_in_order(shares, jobs), 1):
            for audio in share:
                out.write(audio.tobytes())
                starts.append(starts[-1] + len(audio))
            print(f"decoded {min(number * SHARE, len(utterances))} of {len(utterances)}", file=sys.stderr, flush=True)
    return starts


def _in_order(shares: Sequence[Sequence[Utterance]], jobs: int) -> Iterator[list[Stored]]:
    if jobs == 1:
        yield from map(_read, shares)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(_read, shares)


def _read(utterances: Sequence[Utterance]) -> list[Stored]:
    return [read_audio(u) for u in utterances]
