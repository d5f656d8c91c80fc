"""Keeps dev sentences out of training: finds texts that share six words in a row with a dev transcript.

The dev transcripts come from every manifest's dev rows. Whatever trains on text (synthesis, human recordings, the
tokenizer, the language model) asks `DevSentences.overlaps` first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vivavoce.recipes.data.manifest import Utterance, load_all
from vivavoce.speech.text import normalize

ORDER = 6


def _grams(words: list[str]) -> Iterator[str]:
    return (" ".join(words[i : i + ORDER]) for i in range(len(words) - ORDER + 1))


@dataclass(frozen=True)
class DevSentences:
    """What training may not see: every run of six words of a dev transcript, and the short transcripts whole."""

    runs: frozenset[str]
    short: frozenset[str]

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> DevSentences:
        """From dev transcripts as written; they are normalised here."""
        lines = [words for text in texts if (words := normalize(text).split())]
        runs = frozenset(gram for words in lines for gram in _grams(words))
        return cls(runs, frozenset(" ".join(words) for words in lines if len(words) < ORDER))

    @classmethod
    def from_manifests(cls, root: str | os.PathLike[str]) -> DevSentences:
        """From the dev rows of every manifest one folder below `root`. Raises BadManifest."""
        return cls.from_texts(u.text for u in load_all(root, "dev"))

    def overlaps(self, normalized: str) -> bool:
        """Whether a normalised sentence shares six words in a row, or, being shorter, is a dev transcript whole."""
        words = normalized.split()
        if len(words) < ORDER:
            return " ".join(words) in self.short
        return any(gram in self.runs for gram in _grams(words))


@dataclass(frozen=True)
class Dropped:
    """What an exclusion cost, for the report: utterances and hours, in all and dropped."""

    utterances: int
    hours: float
    of_utterances: int
    of_hours: float

    def __str__(self) -> str:
        return (
            f"dropped {self.utterances} of {self.of_utterances} utterances "
            f"({self.hours:.2f} of {self.of_hours:.2f} h) that share dev sentences"
        )


def without_dev(utterances: Iterable[Utterance], dev: DevSentences) -> tuple[list[Utterance], Dropped]:
    """The utterances whose text no dev transcript shares, and what that cost."""
    everything = list(utterances)
    kept = [u for u in everything if not dev.overlaps(normalize(u.text))]
    hours, kept_hours = (sum(u.seconds for u in us) / 3600 for us in (everything, kept))
    return kept, Dropped(len(everything) - len(kept), hours - kept_hours, len(everything), hours)
