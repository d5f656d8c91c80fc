"""Punctuation, capitals and digits for readers: a second pass over recognised words, live or at once.

Words come from the recogniser in the order they were said; what leaves is how they are written: a comma, full stop or
question mark after some, capitals where they belong, numbers in digits (`numerals`).
recipes/train/asr/punctuation.py trains the network.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import weights
from .asr.transcript import Transcript
from .asr.words import Update, Word
from .errors import BadCheckpoint
from .numerals import split, write_numbers

MARKS = ("", ",", ".", "?")
LOWER, CAPITAL, UPPER = range(3)
BUCKETS = 16384  # of hashed features; 0 is kept for "no word"
WIDTH, HIDDEN, KERNEL, LAYERS = 32, 96, 5, 3
AFTER = LAYERS  # words after it that a word's mark waits for
BEFORE = LAYERS * (KERNEL - 2)  # words before it that it depends on


def features(word: str) -> tuple[int, int, int]:
    """A word as the buckets of itself, its last three letters and its first two."""
    keys = (word, f"-{word[-3:]}", f"{word[:2]}-")
    return tuple(zlib.crc32(key.encode()) % (BUCKETS - 1) + 1 for key in keys)  # type: ignore[return-value]


class Punctuator(nn.Module):
    """Convolutions over hashed words: each sees nine words before it and three after."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum", padding_idx=0)
        widths = [WIDTH, *[HIDDEN] * LAYERS]
        self.layers = nn.ModuleList(nn.Conv1d(a, b, KERNEL) for a, b in pairwise(widths))
        self.marks = nn.Linear(HIDDEN, len(MARKS))
        self.cases = nn.Linear(HIDDEN, 3)

    def forward(self, buckets: Tensor) -> tuple[Tensor, Tensor]:
        """buckets: (batch, n, 3), rows of 0 where there is no word. Returns log-odds (batch, n - BEFORE - AFTER, 4) of
        the marks after the inner words and (..., 3) of their case."""
        batch, n, _ = buckets.shape
        x = self.words(buckets.flatten(0, 1)).view(batch, n, WIDTH).transpose(1, 2)
        for layer in self.layers:
            x = F.relu(layer(x))
        x = x.transpose(1, 2)
        return self.marks(x), self.cases(x)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """The one that ships, or a file. Raises BadCheckpoint for what holds something else."""
        path = Path(path or str(resources.files("vivavoce.speech.models") / "punctuation-en" / "model.safetensors"))
        model = cls()
        try:
            model.load_state_dict({name: x.float() for name, x in load_file(path).items()})
        except (SafetensorError, OSError, RuntimeError) as e:
            raise BadCheckpoint(f"{path}: not a punctuation model ({str(e).splitlines()[0]}); train one or leave "
                                "--punctuate out") from e
        return model.eval()

    def save(self, path: str | Path) -> None:
        """In 16 bits."""
        weights.write({name: x.half().contiguous() for name, x in self.state_dict().items()}, Path(path))


@dataclass(frozen=True)
class Unwritten:
    """All that a session remembers between feeds: plain words that are context, words that wait for theirs, and
    whether the next one begins a sentence; and written words that may yet be one number, with the one before them."""

    before: tuple[str, ...] = ()
    waiting: tuple[Word, ...] = ()
    begins: bool = True
    numbers: tuple[Word, ...] = ()
    ahead: str = ""


class Writer:
    """Plain words into written ones; holds no session's state."""

    def __init__(self, model: Punctuator) -> None:
        self.model = model

    def feed(self, state: Unwritten, words: Iterable[Word], final: bool = False) -> tuple[Unwritten, tuple[Word, ...]]:
        """Add finished words; returns the new state and the words that are now written, never to change.

        A word comes out once three more have come and no number that it may belong to goes on, or at the end, which
        ends a sentence. However the words are split into feeds, what comes out is the same.
        """
        state, marked = self.mark(state, words, final)
        held = (*state.numbers, *marked)
        ready = len(held) if final else split(held)
        ahead = held[ready - 1].word if ready else state.ahead
        return (replace(state, numbers=held[ready:], ahead=ahead),
                tuple(write_numbers(held[:ready], state.ahead)))

    def mark(self, state: Unwritten, words: Iterable[Word], final: bool) -> tuple[Unwritten, tuple[Word, ...]]:
        """The first half of `feed`: words with marks and capitals, as soon as these are certain; numbers stay words."""
        waiting = (*state.waiting, *words)
        ready = len(waiting) if final else max(0, len(waiting) - AFTER)
        if not ready:
            return replace(state, waiting=waiting), ()
        marks, cases = self._decide(state.before, [w.word for w in waiting], ready, final)
        written, begins = [], state.begins
        for word, mark, case in zip(waiting, marks, cases, strict=False):
            written.append(replace(word, word=write(word.word, mark, case, begins)))
            begins = mark in (".", "?")
        before = (*state.before, *(w.word for w in waiting[:ready]))[-BEFORE:]
        return replace(state, before=before, waiting=waiting[ready:], begins=begins), tuple(written)

    def update(self, state: Unwritten, update: Update, final: bool = False) -> tuple[Unwritten, Update]:
        """The same for what a recogniser gave out: words still waiting stand at the head of the tail."""
        state, written = self.feed(state, update.stable, final)
        waiting = (*state.numbers, *state.waiting)
        return state, Update(written, " ".join([*(w.word for w in waiting), *update.tail.split()]))

    def transcript(self, transcript: Transcript) -> Transcript:
        """A finished transcript, written."""
        return replace(transcript, words=self.feed(Unwritten(), transcript.words, final=True)[1])

    def text(self, text: str) -> str:
        """One finished utterance of plain words, written."""
        _, words = self.feed(Unwritten(), [Word(word, 0, 0, 1.0) for word in text.split()], final=True)
        return " ".join(w.word for w in words)

    @torch.no_grad()
    def _decide(
        self, before: Sequence[str], words: Sequence[str], ready: int, final: bool
    ) -> tuple[list[str], list[int]]:
        """The mark after each of the first `ready` words, and its case."""
        rows = [(0, 0, 0)] * (BEFORE - len(before)) + [features(w) for w in (*before, *words)]
        rows = (rows + [(0, 0, 0)] * AFTER)[: BEFORE + ready + AFTER]
        marks, cases = self.model(torch.tensor([rows]))
        if final:
            marks[0, -1, :2] = float("-inf")  # the end of what is said ends a sentence
        return [MARKS[i] for i in marks[0].argmax(-1).tolist()], cases[0].argmax(-1).tolist()


def write(word: str, mark: str, case: int, begins: bool) -> str:
    """A plain word as it is written; "i" is always a capital."""
    if case == UPPER:
        word = word.upper()
    elif case == CAPITAL or begins or word == "i" or word.startswith("i'"):
        word = word[:1].upper() + word[1:]
    return word + mark
