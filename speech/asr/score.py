"""How far a transcript is from its reference: word and character errors, counted by kind.

Both sides go through the same normalisation (speech/text.py) first, so that "3" and "three" are one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from vivavoce.speech.text import normalize


@dataclass(frozen=True)
class Errors:
    """Edits that turn the references into the hypotheses, over `total` reference items."""

    substituted: int = 0
    deleted: int = 0
    inserted: int = 0
    total: int = 0

    @property
    def rate(self) -> float:
        """Errors a reference item; 0 for nothing said and nothing heard, infinite for words made up on silence."""
        wrong = self.substituted + self.deleted + self.inserted
        return wrong / self.total if self.total else (float("inf") if wrong else 0.0)

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.substituted + other.substituted, self.deleted + other.deleted,
                      self.inserted + other.inserted, self.total + other.total)


@dataclass(frozen=True)
class Score:
    words: Errors = Errors()
    characters: Errors = Errors()

    def __add__(self, other: Score) -> Score:
        return Score(self.words + other.words, self.characters + other.characters)


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """Least edits between two sequences (words, or a string for its characters)."""
    kinds = [op.tag for op in Levenshtein.editops(reference, hypothesis)]
    return Errors(kinds.count("replace"), kinds.count("delete"), kinds.count("insert"), len(reference))


def score(reference: str, hypothesis: str) -> Score:
    """Word and character errors of one utterance after normalisation; characters include the spaces."""
    ref, hyp = normalize(reference), normalize(hypothesis)
    return Score(count_errors(ref.split(), hyp.split()), count_errors(ref, hyp))


def total(scores: Iterable[Score]) -> Score:
    return sum(scores, Score())


def interval(groups: Iterable[Errors], share: float = 0.95, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Where the error rate of other such groups would lie, by the percentile bootstrap (Efron 1979; for error rates
    Bisani and Ney 2004): the groups are drawn again with replacement, `samples` times, the same way for a seed.

    groups: the errors of each utterance, or of each speaker where few speakers say many utterances each. Fewer than two
    groups say nothing about others: (0, infinity).
    """
    pairs = [(e.substituted + e.deleted + e.inserted, e.total) for e in groups]
    counts = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    if len(counts) < 2 or not counts[:, 1].any():
        return 0.0, float("inf")
    drawn = np.random.default_rng(seed).integers(len(counts), size=(samples, len(counts)))
    wrong, total = counts[drawn].sum(1).T
    low, high = np.quantile(wrong / np.maximum(total, 1), [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
