"""What a converter's speech tokens keep of what is said: one table, recordings beside what tokens leave of them.

A recogniser hears dev recordings as they are and with its lower layers' frames sent through the tokens; an outside
judge (pocketsphinx) hears them as they are and said by the voice. How many of the codes are in use stands below. Rows
go to stdout: `python -P -m vivavoce.recipes.train.tts.bottleneck CONVERTER`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import soxr
import torch
from torch import Tensor

from vivavoce.recipes.data import manifest
from vivavoce.recipes.options import MODEL, count
from vivavoce.recipes.speak import VOICE
from vivavoce.speech import audio, checkpoint
from vivavoce.speech.asr.model import AsrModel
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import Score, interval, score, total
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.convert import Converter
from vivavoce.speech.tts.tokens import RATE, SpeechTokenizer
from vivavoce.speech.tts.voice import Voice

from .data import level
from .measure import hear
from .tokens import squeezed

LOOKAHEAD = 6
Spoken = tuple[str, Tensor]  # text, (n,) float32 at 16 kHz


@contextmanager
def through(recogniser: AsrModel, tokenizer: SpeechTokenizer) -> Iterator[None]:
    """While open, the recogniser hears only what passes the tokens. Raises BadCheckpoint where these were cut from
    another recogniser."""
    c = tokenizer.config
    own, theirs = tokenizer.encoder.state_dict(), recogniser.encoder.state_dict()
    if not all(name in theirs and alike(tensor, theirs[name]) for name, tensor in own.items()):
        raise BadCheckpoint("the tokens were cut from another recogniser; name that one with --model")
    with squeezed(recogniser.encoder, c.encoder.layers, tokenizer.quantiser, tap=c.tap):
        yield


def alike(a: Tensor, b: Tensor) -> bool:
    """The same weights but for how they were rounded when saved."""
    return a.shape == b.shape and float((a - b).abs().mean()) <= 0.02 * float(b.abs().mean())


def codes(tokenizer: SpeechTokenizer, spoken: Sequence[Spoken]) -> tuple[int, int, float]:
    """How many tokens there are, how many different ones, and how many alike would be as hard to foretell (the
    exponential of their entropy)."""
    tokens = torch.cat([tokenizer.tokens(pcm, LOOKAHEAD) for _, pcm in spoken])
    used = tokens.bincount(minlength=tokenizer.config.codes).double()
    share = used / used.sum()
    return len(tokens), int((used > 0).sum()), float(torch.special.entr(share).sum().exp())


def outside(pcm: Tensor) -> str:
    """What pocketsphinx hears in (n,) at 16 kHz."""
    return hear(torch.from_numpy(soxr.resample(pcm.numpy(), RATE, mel.RATE)))


def ways(model: str, converter: Converter, voice: Voice, steps: Sequence[int],
         inside: bool = False) -> dict[str, Callable[[Tensor], str]]:
    """Names of rows, and how each comes by its words; inside: only those of the recogniser itself."""
    loaded = checkpoint.load(model)
    recognizer = Recognizer(loaded.model, loaded.tokenizer, decoder="greedy")

    def plain(pcm: Tensor) -> str:
        return recognizer.transcribe(pcm, lookahead=LOOKAHEAD).text

    def squeezed(pcm: Tensor) -> str:
        with through(loaded.model, converter.tokenizer):
            return plain(pcm)

    named: dict[str, Callable[[Tensor], str]] = {f"{model}": plain, f"{model}, through the tokens": squeezed}
    if inside:
        return named
    named["pocketsphinx"] = outside
    for n in steps:
        named[f"pocketsphinx, converted in {n} step{'s' * (n > 1)}"] = (
            lambda pcm, n=n: hear(converter.convert(voice, pcm, steps=n, lookahead=LOOKAHEAD)))  # type: ignore[misc]
    return named


def row(name: str, scores: Sequence[Score]) -> str:
    errors = total(scores)
    low, high = (100 * rate for rate in interval(s.characters for s in scores))
    return (f"| {name} | {100 * errors.characters.rate:.1f} ({low:.1f}–{high:.1f}) | {100 * errors.words.rate:.1f} |")


def main(argv: Sequence[str] | None = None) -> int:
    """Raises BadCheckpoint, BadManifest, BadAudio."""
    parser = argparse.ArgumentParser("bottleneck", description="What a converter's tokens keep.")
    parser.add_argument("converter", nargs="?", default="lj-en-convert", help="(default: %(default)s)")
    parser.add_argument("--voice", default=VOICE, help="(default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="the recogniser it was cut from (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, action="append", help="its dev split is heard; may be given again")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="recordings each (default: %(default)s)")
    parser.add_argument("--steps", default="1,4", help="numbers of solver steps (default: %(default)s)")
    parser.add_argument("--inside", action="store_true", help="only by the recogniser it was cut from, unconverted")
    parser.add_argument("--threads", type=count, default=1, metavar="N")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    converter, voice = Converter.load(args.converter), Voice.load(args.voice)
    for corpus in args.corpus or [Path("data/speech/ljspeech")]:
        spoken = [(u.text, level(audio.read(u.path, RATE))) for u in manifest.load(corpus, "dev") if u.text]
        spoken = spoken[: args.limit]
        print(f"\n{corpus.name}, {len(spoken)} dev recordings\n\n| heard by | CER % (95 %) | WER % |\n|---|---|---|")
        for name, listen in ways(args.model, converter, voice, [int(n) for n in args.steps.split(",")],
                                 args.inside).items():
            print(row(name, [score(text, listen(pcm)) for text, pcm in spoken]), flush=True)
        many, used, alike = codes(converter.tokenizer, spoken)
        print(f"\n{many} tokens, {used} of {converter.tokenizer.config.codes} codes in use, perplexity {alike:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
