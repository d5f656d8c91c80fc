"""Text corpora: `*.txt.xz`, `*.tsv.xz` and `*.jsonl.xz` files of sentences, read as normalised sentences for training.

They come from a folder given by the caller, one sentence (or one dialogue) a line, with `NAME.LICENCE.txt` beside
each. The synthesiser, the tokenizer trainer and the language model draw from them.
"""

from __future__ import annotations

import json
import lzma
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.text import normalize

# Share of the drawn sentences by the beginning of the file's name; half is read prose, half is everyday speech.
WEIGHTS: Mapping[str, float] = {
    "librispeech_train": 0.25,
    "novels_": 0.25,
    "common_voice": 0.12,
    "tatoeba": 0.06,
    "ami_": 0.02,
    "icsi_": 0.02,
    "sgd_": 0.07,
    "taskmaster": 0.02,
    "chatterbot": 0.01,
    "opentrivia": 0.03,
    "snips": 0.03,
    "nlu_eval": 0.02,
    "clinc150": 0.02,
    "banking77": 0.01,
    "polyai": 0.01,
    "ha_intents_sentences": 0.01,
    "number_templates": 0.05,
}
_SENTENCE_END = re.compile(r"(?<=[a-z][.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Corpus:
    """The normalised sentences of one file, no two alike."""

    name: str
    licence: str
    sentences: tuple[str, ...]


def raw_lines(file: Path) -> Iterator[str]:
    """The texts of one file as written: lines, a TSV's first column, or the turns of a JSON dialogue.

    Raises:
        BadConfig: the file is damaged, or of another format; names it and the line.
    """
    number = 0
    try:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007 (the except clause names the line)
                if file.name.endswith(".jsonl.xz"):
                    yield from (turn["text"] for turn in json.loads(line)["turns"])
                else:
                    yield line.split("\t", 1)[0].strip()
    except (lzma.LZMAError, EOFError, ValueError, KeyError, TypeError) as e:
        raise BadConfig(
            f"{file}, line {number}: {e}; a text corpus is xz-compressed UTF-8 text, TSV or JSON turns"
        ) from e


def pieces(text: str, longest: int, rng: np.random.Generator) -> Iterator[str]:
    """Normalised sentences of 1 to `longest` words; longer ones are cut at random word boundaries.

    Transcripts of read books have no punctuation, so what a reader says in one breath is any run of words.
    """
    for sentence in _SENTENCE_END.split(text):
        words = normalize(sentence).split()
        while len(words) > longest:
            count = int(rng.integers(longest // 3, longest + 1))
            yield " ".join(words[:count])
            words = words[count:]
        if words:
            yield " ".join(words)


def _licence(file: Path) -> str:
    """The `LICENCE:` line of the notice beside a corpus, or the notice's first sentence."""
    notice = file.with_name(file.name.removesuffix(".xz") + ".LICENCE.txt")
    if not notice.exists():
        return "unknown"
    text = notice.read_text(encoding="utf-8")
    found = re.search(r"^LICENCE:\s*(.+)$", text, re.MULTILINE)
    return " ".join((found[1] if found else text.split("(")[0]).split())


def read(file: Path, dev: DevSentences, longest: int = 25, seed: int = 0, limit: int | None = None) -> Corpus:
    """One corpus without the sentences that dev transcripts share; `limit` keeps the first so many lines' worth."""
    rng = np.random.default_rng((seed, len(file.name)))
    kept: dict[str, None] = {}
    for text in raw_lines(file):
        kept.update((piece, None) for piece in pieces(text, longest, rng) if not dev.overlaps(piece))
        if limit is not None and len(kept) >= limit:
            break
    return Corpus(file.name.split(".")[0], _licence(file), tuple(kept))


def read_all(
    folder: str | os.PathLike[str], dev: DevSentences, longest: int = 25, seed: int = 0, limit: int | None = None,
    weights: Mapping[str, float] = WEIGHTS,
) -> list[tuple[Corpus, float]]:
    """Every corpus that `weights` names, with its share. Files of one name's beginning split its weight by size.

    Raises:
        BadConfig: the folder has none of them.
    """
    found: list[tuple[Corpus, float]] = []
    for prefix, weight in weights.items():
        group = [read(f, dev, longest, seed, limit) for f in sorted(Path(folder).glob(f"{prefix}*.xz"))]
        total = sum(len(c.sentences) for c in group)
        found += [(c, weight * len(c.sentences) / total) for c in group if c.sentences]
    if not found:
        raise BadConfig(f"{folder}: none of the text corpora ({', '.join(weights)}) as .xz files; check --text-dir")
    return found


def draw(corpora: list[tuple[Corpus, float]], seed: int) -> Iterator[tuple[str, Corpus]]:
    """Endless sentences by share, each corpus in its own random order, begun anew (reshuffled) when used up."""
    rng = np.random.default_rng(seed)
    shares = np.array([weight for _, weight in corpora])
    orders: list[list[int]] = [[] for _ in corpora]
    while True:
        for which in rng.choice(len(corpora), size=1024, p=shares / shares.sum()):
            corpus = corpora[which][0]
            if not orders[which]:
                orders[which] = rng.permutation(len(corpus.sentences)).tolist()
            yield corpus.sentences[orders[which].pop()], corpus
