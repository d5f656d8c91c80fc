"""Speech with a label for every moment: sentences that espeak-ng reads while training needs them.

CTC alone takes thousands of steps to find out that its labels have anything to do with the sound. A model that has
first been told the phone of every 40 ms finds it within some hundreds. Sentences come from the training set; batches go
to the training loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vivavoce.recipes.data.batches import RATE, Batch, pad
from vivavoce.recipes.data.voices import draw, say_timed
from vivavoce.speech.errors import BadAudio

FRAME = 1280  # samples of an encoder frame
LABELS_A_FRAME = 2
# espeak-ng's mnemonics for English, most frequent first; a phone's class is its place here plus one, 0 is silence
PHONES = (
    "t", "n", "I", "d", "s", "l", "m", "@", "k", "r", "a", "z", "E", "D", "w", "V", "aI", "i:", "f", "v", "h", "p",
    "b", "eI", "0", "u:", "a#", "oU", "3", "i", "I2", "j", "N", ";", "@2", "g", "3:", "S", "U", "O@", "aU", "T",
    "tS", "A@", "@L", "r-", "O:", "dZ", "t#", "I#", "e@", "aa", "O2", "o@", "i@3", "i@", "U@", "OI", "aI2", "A:",
    "t2", "@5", "aI@",
)  # fmt: skip
CLASSES = len(PHONES) + 1
_CLASS = {name: i + 1 for i, name in enumerate(PHONES)}


class TimedBatch(NamedTuple):
    """A batch and its phone classes, (B, 2 T) int64, two for each encoder frame; -1 past an utterance's end."""

    batch: Batch
    phones: Tensor


class TimedSpeech(Dataset[TimedBatch]):
    """Batches of about `seconds` of synthetic speech. The k-th has the same sentences and voices whenever it is asked
    for; its samples differ a little, as espeak-ng carries its state from one sentence to the next.

    texts: normalised sentences, of which those up to `longest` words are read.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, seconds: float = 24.0, longest: int = 12,
                 seed: int = 0) -> None:
        self.texts = sorted({t for t in texts if 1 < len(t.split()) <= longest}, key=lambda t: (len(t), t))
        self.tokenizer, self.seconds, self.seed = tokenizer, seconds, seed
        if not self.texts:
            raise ValueError(f"no sentence of 2 to {longest} words to read aloud")

    def batches(self, start: int, workers: int = 0) -> Iterator[TimedBatch]:
        """Without end, from the start-th on, made here or by `workers` processes, in the same order."""
        yield from DataLoader(self, batch_size=None, sampler=_From(start), num_workers=workers,
                              prefetch_factor=4 if workers else None)

    def __getitem__(self, number: int) -> TimedBatch:
        return self.batch(number)

    def batch(self, number: int) -> TimedBatch:
        """Sentences of like length, each in a voice of its own, with a little noise."""
        first = int(np.random.default_rng((self.seed, number)).integers(len(self.texts)))
        audio, phones, tokens = [], [], []
        left, row = self.seconds, 0
        while left > 0:
            text = self.texts[(first + row) % len(self.texts)]
            rng = np.random.default_rng((self.seed, number, row))
            row += 1
            try:
                pcm, timed = say_timed(text, draw(rng, 0.0))
            except BadAudio:  # nothing to be heard in this sentence; the next has its turn
                continue
            noise = rng.standard_normal(len(pcm), dtype=np.float32) * np.float32(10 ** rng.uniform(-4.5, -2.2))
            audio.append(pcm + noise)
            phones.append(frame_classes(timed, len(pcm) // FRAME + 2))
            tokens.append(np.array(self.tokenizer.encode(text).ids, np.int64))
            left -= len(pcm) / RATE
        most = max(len(p) for p in phones)
        padded = [np.pad(p, (0, most - len(p)), constant_values=-1) for p in phones]
        return TimedBatch(pad(audio, tokens), torch.from_numpy(np.stack(padded)))


@dataclass(frozen=True)
class _From:
    """A sampler: start, start + 1 and so on."""

    start: int

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def frame_classes(phones: Sequence[tuple[int, str]], frames: int) -> npt.NDArray[np.int64]:
    """The phone class at the middle of each half of each encoder frame, (2 frames,); frame t is centred on 1280 t."""
    starts = np.array([sample for sample, _ in phones] or [0])
    classes = np.array([_CLASS.get(name, 0) for _, name in phones] or [0], np.int64)
    moment = np.arange(LABELS_A_FRAME * frames) * (FRAME // LABELS_A_FRAME) - FRAME // 4
    at = np.searchsorted(starts, moment, side="right") - 1
    return np.where(at < 0, 0, classes[np.maximum(at, 0)])
