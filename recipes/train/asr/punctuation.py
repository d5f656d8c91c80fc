"""Trains the second pass that writes punctuation and capitals (speech/punctuate.py), and measures it on held-out text.

Sentences come from the text corpora that keep both; one line in fifty, by its digest, is never trained on, nor is any
that dev transcripts share. What leaves is a file of weights and its F1 by corpus, over plain reference words.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vivavoce.recipes.data.corpora import raw_lines
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.speech.asr.words import Word
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.punctuate import (
    AFTER,
    BEFORE,
    CAPITAL,
    LOWER,
    MARKS,
    UPPER,
    Punctuator,
    Unwritten,
    Writer,
    features,
)
from vivavoce.streaming.errors import VivaVoceError

# Share of the training words by corpus: half prose, half what people say to each other and to machines.
SHARES = {
    "novels_pd_main": 0.3, "ljspeech_raw": 0.1, "common_voice_en": 0.2, "tatoeba_en": 0.1, "sgd_train_dev": 0.12,
    "taskmaster3_movies_partial": 0.04, "ami_meetings": 0.04, "opentrivia_qa": 0.05, "banking77_train": 0.05,
}  # fmt: skip
HELD_OUT, SPAN = 50, 96
UNKNOWN = -100  # a label that counts for nothing
_PLAIN = str.maketrans("‘’“”–—", "''\"\"--")
_END = re.compile(r"(?<=[a-z][.!?])[\"')]*\s+(?=[\"'(]*[A-Z])")
_TITLE = re.compile(r"\W*(?:mr|mrs|dr|st|jr|sr|vs|messrs|prof|capt|col|gen|lt|rev|[a-z])\.", re.IGNORECASE)
_SAID = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "jr": "junior", "sr": "senior"}


@dataclass(frozen=True)
class Labelled:
    """Words and, for each, the mark after it (index of MARKS) and its case (UNKNOWN where a sentence begins)."""

    words: tuple[str, ...]
    marks: tuple[int, ...]
    cases: tuple[int, ...]


def label(text: str) -> Labelled | None:
    """A written text as plain words with labels; None where it has digits or symbols, or does not end a sentence.

    An exclamation mark counts as a full stop, a semicolon or a colon as a comma.
    """
    text = text.translate(_PLAIN).strip()
    if not text.isascii() or not re.match(r"[\"'(]*[A-Z]", text) or not re.search(r"[.?!][\"')]*$", text):
        return None
    if re.search(r"[^A-Za-z\s.,;:?!'\"()-]", text):
        return None
    words, marks, cases, begins = list[str](), list[int](), list[int](), True
    for token in re.sub(r"--+| - ", " , ", text).split():
        parts = [p for p in (part.strip("'") for part in re.findall(r"[A-Za-z']+", token)) if p]
        for part in parts:
            case = UPPER if len(part) > 1 and part.isupper() else CAPITAL if part[0].isupper() else LOWER
            words.append(_SAID.get(part.lower(), part.lower()))
            cases.append(UNKNOWN if begins and case != UPPER else case)
            marks.append(0)
            begins = False
        if words and not _TITLE.fullmatch(token.rstrip("\"')")) and (mark := _mark(token)):
            marks[-1], begins = max(mark, marks[-1]), mark > 1
    return Labelled(tuple(words), tuple(marks), tuple(cases)) if words else None


def _mark(token: str) -> int:
    end = token.rstrip("\"')")
    return {"?": 3, ".": 2, "!": 2, ",": 1, ";": 1, ":": 1}.get(end[-1:], 0)


def sentences(file: Path, dev: DevSentences, held_out: bool) -> Iterator[Labelled]:
    """The sentences of one corpus, of the lines kept for measuring or of the others, in the file's order."""
    for line in raw_lines(file):
        if (zlib.crc32(line.encode()) % HELD_OUT == 0) != held_out:
            continue
        for text in _END.split(line):
            found = label(text)
            if found and not dev.overlaps(" ".join(found.words)):
                yield found


def read(text_dir: Path, dev: DevSentences, words: int, held_out: bool) -> dict[str, list[Labelled]]:
    """Sentences by corpus, about `words` words in all. Raises BadConfig when the folder has none of the corpora."""
    found = dict[str, list[Labelled]]()
    for name, share in SHARES.items():
        for file in sorted(text_dir.glob(f"{name}.*.xz")):
            kept, left = found.setdefault(name, []), share * words
            for sentence in sentences(file, dev, held_out):
                kept.append(sentence)
                left -= len(sentence.words)
                if left <= 0:
                    break
    if not any(found.values()):
        raise BadConfig(f"{text_dir}: none of the corpora with punctuation ({', '.join(SHARES)}); check --text-dir")
    return found


Rows = npt.NDArray[np.int64]


def spans(found: dict[str, list[Labelled]], rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Sentences one after another in spans of up to SPAN words, each ending with a sentence: buckets
    (spans, BEFORE + SPAN + AFTER, 3) and labels (spans, SPAN, 2). Runs of one corpus' neighbours stay together."""
    texts = list[list[Labelled]]()
    for corpus in found.values():
        run, size = list[Labelled](), 0
        for sentence in corpus:
            if run and (size + len(sentence.words) > SPAN or rng.random() < 0.05):
                texts.append(run)
                run, size = [], 0
            if len(sentence.words) <= SPAN:
                run.append(sentence)
                size += len(sentence.words)
        texts.append(run)
    buckets = np.zeros((len(texts), BEFORE + SPAN + AFTER, 3), np.int64)
    labels = np.full((len(texts), SPAN, 2), UNKNOWN, np.int64)
    known = dict[str, tuple[int, int, int]]()
    for row, run in enumerate(texts):
        at = 0
        for sentence in run:
            for word, mark, case in zip(sentence.words, sentence.marks, sentence.cases, strict=True):
                if word not in known:
                    known[word] = features(word)
                buckets[row, BEFORE + at], labels[row, at] = known[word], (mark, case)
                at += 1
    return buckets, labels


def train(buckets: Rows, labels: Rows, epochs: int, seed: int, rate: float = 3e-3, batch: int = 32) -> Punctuator:
    """Cross-entropy of marks and cases; the rate falls linearly to 0."""
    torch.manual_seed(seed)
    model, rng = Punctuator(), np.random.default_rng(seed)
    torch.nn.init.normal_(model.words.weight, std=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    steps, began = epochs * (len(buckets) // batch), time.monotonic()
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(buckets))
        for at in range(0, len(order) - batch + 1, batch):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            chosen = order[at : at + batch]
            loss = _loss(model, torch.from_numpy(buckets[chosen]), torch.from_numpy(labels[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % 100 == 0:
                print(f"step {step} of {steps}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return model.eval()


def _loss(model: Punctuator, buckets: Tensor, labels: Tensor) -> Tensor:
    marks, cases = model(buckets)
    return F.cross_entropy(marks.flatten(0, 1), labels[..., 0].flatten(), ignore_index=UNKNOWN) + F.cross_entropy(
        cases.flatten(0, 1), labels[..., 1].flatten(), ignore_index=UNKNOWN
    )


def f1(model: Punctuator, held_out: Sequence[Labelled], run: int = 5) -> dict[str, float]:
    """F1 of each mark, of all marks, and of capitals (those that begin sentences too), over runs of `run` sentences."""
    hits: dict[str, list[int]] = {name: [0, 0, 0] for name in (*MARKS[1:], "marks", "capitals")}  # right, given, wanted
    writer = Writer(model)
    for at in range(0, len(held_out) - run + 1, run):
        text = held_out[at : at + run]
        plain = [Word(w, 0, 0, 1.0) for s in text for w in s.words]
        _, written = writer.mark(Unwritten(), plain, final=True)
        wanted = [(m, c != LOWER) for s in text for m, c in zip(s.marks, s.cases, strict=True)]
        for word, (mark, capital) in zip(written, wanted, strict=True):
            got = word.word[-1] if word.word[-1] in MARKS[1:] else ""
            for name in {got, MARKS[mark]} - {""}:
                _count(hits[name], got == name, MARKS[mark] == name)
            _count(hits["marks"], got != "", mark > 0, got == MARKS[mark])
            _count(hits["capitals"], word.word != word.word.lower(), capital)
    return {name: round(2 * right / max(given + wanted, 1), 4) for name, (right, given, wanted) in hits.items()}


def _count(hits: list[int], given: bool, wanted: bool, same: bool = True) -> None:
    hits[0] += given and wanted and same
    hits[1] += given
    hits[2] += wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Write the weights and print F1; exit code 0 done, 1 failed, 2 bad usage."""
    p = argparse.ArgumentParser("vivavoce train punctuation", description="Train what writes punctuation and capitals.")
    p.add_argument("--text-dir", type=Path, required=True)
    p.add_argument("--speech-dir", type=Path, required=True, help="folder of corpora whose dev sentences are left out")
    p.add_argument("--out", type=Path, required=True, help="file: model.safetensors")
    p.add_argument("--words", type=int, default=900_000)
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args(argv)
    try:
        dev = DevSentences.from_manifests(args.speech_dir)
        found = read(args.text_dir, dev, args.words, held_out=False)
        buckets, labels = spans(found, np.random.default_rng(args.seed))
        print(f"{sum(map(len, found.values()))} sentences in {len(buckets)} spans", flush=True)
        model = train(buckets, labels, args.epochs, args.seed)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        model.save(args.out)
        held = read(args.text_dir, dev, args.words // 30, held_out=True)
        model = Punctuator.load(args.out)
        rows = {name: f1(model, sentences) for name, sentences in held.items()}
        rows["all"] = f1(model, [s for sentences in held.values() for s in sentences])
        print(json.dumps({"bytes": args.out.stat().st_size, "f1": rows}, indent=1))
    except VivaVoceError as e:
        print(f"punctuation: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
