"""`vivavoce convert`: what is said in a recording, said by another voice.

The recording is read in blocks, goes through the converter's and the voice's stages as a stream, and is written as it
comes, so that its length does not matter.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from vivavoce.recipes.options import say, within
from vivavoce.speech import audio
from vivavoce.speech.tts.convert import Converter
from vivavoce.speech.tts.flow import MOST_STEPS
from vivavoce.speech.tts.tokens import RATE
from vivavoce.speech.tts.voice import Voice
from vivavoce.streaming.chain import Chain, ChainState

LOOKAHEAD = 6  # chunks of 80 ms, for the encoder; of 100 ms, for the flow


def convert(stage: Chain, blocks: Iterator[Tensor], lookahead: int = LOOKAHEAD) -> Iterator[Tensor]:
    """Pieces (n,) at 16 kHz -> pieces (m,) at 24 kHz, as they are made."""
    state = stage.init_state(1)
    waiting: Tensor | None = None
    for block in blocks:
        if waiting is not None:
            yield _step(stage, waiting, state, False, lookahead)
        waiting = block
    if waiting is not None:
        yield _step(stage, waiting, state, True, lookahead)


def _step(stage: Chain, pcm: Tensor, state: ChainState, final: bool, lookahead: int) -> Tensor:
    out, n = stage.step(pcm[None], state, torch.tensor([len(pcm)]), torch.tensor([final]), lookahead)
    made: Tensor = out[0, : int(n)]
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Raises BadAudio, BadCheckpoint, BadConfig."""
    parser = argparse.ArgumentParser("vivavoce convert", description="Say a recording's words in another voice.")
    parser.add_argument("input", type=Path, metavar="IN.wav")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.wav", help="or .flac, .mp3, .opus, .ogg")
    parser.add_argument("--voice", default="lj-en", metavar="V", help="who says it (default: %(default)s)")
    parser.add_argument("--converter", default="lj-en-convert", metavar="C", help="a name or a folder, for the voice")
    parser.add_argument("--steps", type=within(1, MOST_STEPS), default=4, metavar="N",
                        help="of the solver, 1 to 10 (default: 4)")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() not in audio.FORMATS:
        parser.error(f"-o {args.out}: end the name in one of {', '.join(audio.FORMATS)}")
    voice, converter = Voice.load(args.voice), Converter.load(args.converter)
    stage = converter.stage(voice, steps=args.steps)
    began, samples = time.monotonic(), 0
    made = convert(stage, audio.blocks(args.input, RATE, seconds=2.0))
    first = next(made)  # before the file is opened, so that bad input leaves none
    with audio.Writer(args.out, voice.sample_rate) as writer:
        for piece in chain([first], made):
            writer.write(piece)
            samples += len(piece)
    say(f"{args.out}: {samples / voice.sample_rate:.1f} s made in {time.monotonic() - began:.1f} s")
    return 0
