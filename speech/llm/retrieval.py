"""Ready answers: what was said before to something much like this, looked up by its words.

A file of exchanges lies beside a small model's weights, written by its training recipe; `assistant.py` asks it before
it lets the model speak. Matching is by rare words and pairs of words, as BM25's family weighs them.
"""

from __future__ import annotations

import json
import lzma
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vivavoce.speech.errors import BadCheckpoint

FILE = "replies.jsonl.xz"
SURE = 0.56  # from this likeness on an answer stands


class Exchange(NamedTuple):
    """heard: the ways to say it; replies: what fits all of them."""

    heard: tuple[str, ...]
    replies: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """likeness: 0 to 1, 1 for the same words."""

    reply: str
    likeness: float


class Replies:
    """exchanges, the earlier ones first where two match alike."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self.exchanges = list(exchanges)
        ways = [(i, _features(text)) for i, exchange in enumerate(self.exchanges) for text in exchange.heard]
        seen = Counter(feature for _, features in ways for feature in features)
        self._weight = {f: math.log(1 + len(ways) / n) ** 2 for f, n in seen.items()}
        self._unseen = math.log(1 + len(ways)) ** 2
        self._exchange = np.array([i for i, _ in ways], np.int64)
        self._norm = np.array([self._size(features) for _, features in ways])
        where: dict[str, list[int]] = {f: [] for f in seen}
        for way, (_, features) in enumerate(ways):
            for feature in features:
                where[feature].append(way)
        self._where: dict[str, npt.NDArray[np.int64]] = {f: np.array(ways) for f, ways in where.items()}

    @classmethod
    def load(cls, path: Path) -> Replies:
        """Raises BadCheckpoint."""
        try:
            with lzma.open(path, "rt", encoding="utf-8") as lines:
                return cls(Exchange(tuple(heard), tuple(replies)) for heard, replies in map(json.loads, lines))
        except (OSError, lzma.LZMAError, EOFError, ValueError, TypeError) as e:
            raise BadCheckpoint(f"{path}: not a file of ready answers ({e}); fetch the model again") from e

    def save(self, path: Path) -> None:
        with lzma.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(exchange) + "\n" for exchange in self.exchanges)

    def find(self, text: str, *, sure: float = SURE, avoid: Collection[str] = ()) -> Found | None:
        """The answer to what is most like `text`, when that is like enough; of several one that is not in `avoid`."""
        features = _features(text)
        shared = np.zeros(len(self._norm))
        for feature in features:
            if feature in self._where:
                shared[self._where[feature]] += self._weight[feature]
        likeness = shared / np.sqrt(self._norm * max(self._size(features), 1e-9))
        if not len(likeness) or likeness.max() < sure:
            return None
        best = int(likeness.argmax())
        replies = self.exchanges[self._exchange[best]].replies
        fresh = [reply for reply in replies if reply not in avoid] or replies
        return Found(fresh[0], float(likeness[best]))

    def _size(self, features: Collection[str]) -> float:
        return sum(self._weight.get(f, self._unseen) for f in features)


_SAME = {"what's": "what is", "how's": "how is", "i'm": "i am", "you're": "you are", "it's": "it is",
         "that's": "that is", "let's": "let us", "don't": "do not", "can't": "can not", "i've": "i have",
         "who's": "who is", "where's": "where is", "favourite": "favorite", "colour": "color", "films": "movies",
         "film": "movie", "hi": "hello", "hey": "hello", "thanks": "thank you", "okay": "ok"}  # fmt: skip
_FILLERS = frozenset(["um", "uh", "er", "hmm", "well", "so", "oh", "please", "viva", "the", "a", "an"])


def words(text: str) -> list[str]:
    """Lower-case words, contractions written out, fillers left out unless there is nothing else."""
    plain = text.lower().replace("\u2019", "'")
    found = [w for word in re.findall(r"[a-z0-9']+", plain) for w in _SAME.get(word, word).split()]
    return [w for w in found if w not in _FILLERS] or found


def _features(text: str) -> set[str]:
    """Words, and pairs that stand together, the beginning and the end included."""
    found = words(text)
    return {*found, *(f"{a} {b}" for a, b in zip(["^", *found], [*found, "$"], strict=True))} if found else set()
