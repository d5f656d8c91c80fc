"""Subword tokenizers: byte-pair encoding over normalised sentences, words marked by `▁`, saved as `tokenizer.json`.

Sentences come from the text corpora and the human training transcripts; the recogniser's heads have one output a piece.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import string
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vivavoce.recipes.data import corpora, manifest
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.text import normalize
from vivavoce.streaming.errors import VivaVoceError

ALPHABET = ("▁", "'", *string.ascii_lowercase)


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-pair tokenizer (Sennrich et al., arXiv 1508.07909) of at most `vocab_size` pieces.

    `sentences` are normalised. Every letter, the apostrophe and `▁` are pieces of their own, so nothing normalised is
    ever unknown, and decoding what was encoded gives it back.

    Raises:
        BadConfig: fewer pieces than letters.
    """
    if vocab_size < len(ALPHABET):
        raise BadConfig(f"vocab_size={vocab_size}: the letters alone are {len(ALPHABET)} pieces; give at least that")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=list(ALPHABET), limit_alphabet=len(ALPHABET), show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """Raises BadConfig."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as e:  # tokenizers raises bare Exception
        raise BadConfig(f"{path}: not a tokenizer ({e}); `vivavoce data tokenizer` makes one") from e


def training_sentences(text_dir: Path, speech_dir: Path, count: int, seed: int) -> list[str]:
    """`count` sentences by the corpora's shares and every human training transcript, dev sentences left out.

    The digest of a sentence decides whether it is taken, so a line more or less in one corpus changes about one line
    here and nothing of the other corpora; a corpus of fewer sentences than its share is taken several times.
    """
    dev = DevSentences.from_manifests(speech_dir)
    found = corpora.read_all(text_dir, dev, seed=seed, limit=count)
    total, chosen = sum(share for _, share in found), list[str]()
    for corpus, share in found:
        ordered = sorted(corpus.sentences, key=lambda text: hashlib.sha256(f"{seed} {text}".encode()).digest())
        chosen += itertools.islice(itertools.cycle(ordered), round(count * share / total))
    human = [text for u in manifest.load_all(speech_dir, "train") if (text := normalize(u.text))]
    return chosen + [text for text in human if not dev.overlaps(text)]


def main(argv: Sequence[str] | None = None) -> int:
    """Train one tokenizer a `--size` and write `tokenizer-SIZE.json`; exit code 0 done, 1 failed, 2 bad usage."""
    p = argparse.ArgumentParser("vivavoce data tokenizer", description="Train subword tokenizers for the recogniser.")
    p.add_argument("--text-dir", type=Path, required=True)
    p.add_argument("--speech-dir", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True, help="folder")
    p.add_argument("--size", type=int, action="append", required=True, help="pieces; may be given again")
    p.add_argument("--sentences", type=int, default=100_000)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args(argv)
    try:
        sentences = training_sentences(args.text_dir, args.speech_dir, args.sentences, args.seed)
        args.out.mkdir(parents=True, exist_ok=True)
        for size in args.size:
            train_tokenizer(sentences, size).save(str(args.out / f"tokenizer-{size}.json"))
    except VivaVoceError as e:
        print(f"tokenizer: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
