"""What the commands share: the options that choose a model, a device and a lookahead, and the checks behind them.

Each command's `main` parses its own words with these; `cli` turns what they raise into one line and an exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch

from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.checkpoint import Loaded, load
from vivavoce.speech.errors import MissingDevice
from vivavoce.speech.nn.encoder import Encoder
from vivavoce.speech.nn.packed import PRECISIONS, Precision, prepare, supported
from vivavoce.streaming.clock import Clock
from vivavoce.streaming.errors import BadLookahead

MODEL = "small-en"
CLOCK = Clock()
N = TypeVar("N", int, float)


class Lookahead(NamedTuple):
    """frames: R, in encoder frames of 80 ms; note: what to tell a caller whose number was rounded down."""

    frames: int
    note: str

    @property
    def ms(self) -> int:
        return CLOCK.lookahead_ms(self.frames)


def lookahead(text: str) -> Lookahead:
    """An argparse type: `offline`, or ms."""
    try:
        return Lookahead(*CLOCK.lookahead_frames(text))
    except BadLookahead as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=MODEL,
        metavar="M",
        help="as `models list` names it, a folder, a .nemo file or a Hub id (default: %(default)s)",
    )
    parser.add_argument(
        "--decoder",
        choices=("auto", "greedy", "ctc", "beam", "rnnt", "tdt"),
        default="auto",
        help="auto: beam search where the model has a language model beside it, else greedy (default)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda", "auto"),
        default="auto",
        help="where the model runs; auto takes a GPU when there is one (default)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of the encoder's weights on a CPU: auto and fp32 are exact; fp16 and int8 round, and are faster",
    )


def add_hearing(parser: argparse.ArgumentParser) -> None:
    """What decides which words are heard, besides the model."""
    parser.add_argument(
        "--gate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write nothing where voice activity hears nobody (default); --no-gate: the recogniser alone decides",
    )
    parser.add_argument(
        "--hotwords",
        type=phrases,
        default=(),
        metavar="WORDS",
        help="names and phrases to expect, between commas, or @FILE with one a line",
    )


def add_writing(parser: argparse.ArgumentParser) -> None:
    """How the words are written."""
    parser.add_argument("--punctuate", action="store_true", help="write punctuation, capitals and digits (English)")


def phrases(text: str) -> tuple[str, ...]:
    """An argparse type: phrases between commas, or those of a file, a line each."""
    try:
        found = Path(text[1:]).read_text(encoding="utf-8").splitlines() if text.startswith("@") else text.split(",")
    except (OSError, UnicodeDecodeError) as e:
        raise argparse.ArgumentTypeError(f"{text[1:]} cannot be read ({e}); give a UTF-8 file, a phrase a line") from e
    return tuple(phrase.strip() for phrase in found if phrase.strip())


def positive(text: str) -> float:
    """An argparse type: a number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


def count(text: str) -> int:
    """An argparse type: 1, 2, 3 ..."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def within(least: N, most: N) -> Callable[[str], N]:
    """An argparse type: a number from `least` to `most`, a whole one where these are."""

    def number(text: str) -> N:
        value = type(least)(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return value

    return number


def load_model(args: argparse.Namespace) -> Loaded:
    """The model of `add_model`'s options. Raises what `checkpoint.load` raises, and MissingDevice without a GPU."""
    return load(args.model, device=usable(args.device))


def usable(device: str) -> str:
    """cpu or cuda, as `--device` says: auto takes a GPU where there is one. Raises MissingDevice without it."""
    gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise MissingDevice("--device cuda: PyTorch finds no usable GPU here; use --device cpu, or check the driver")
    return "cuda" if gpu else "cpu"


def lay_out(encoder: Encoder, precision: Precision | Literal["auto"]) -> None:
    """Pack the encoder's linears, in place; auto: in float32 where that can be, else not at all. Raises MissingDevice
    for another precision where it cannot run."""
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    if precision != "auto":
        prepare(encoder, precision)
    elif on_cpu and "fp32" in supported():
        prepare(encoder)


def recognizers(args: argparse.Namespace) -> Callable[[int], Recognizer]:
    """Makes recognisers of so many sessions, all on the one model of `add_model`'s options. Raises what `load_model`
    and `lay_out` raise; making one raises BadCheckpoint when the model does not have the decoder asked for."""
    loaded = load_model(args)
    lay_out(loaded.model.encoder, getattr(args, "precision", "auto"))

    def make(slots: int) -> Recognizer:
        return Recognizer(loaded.model, loaded.tokenizer, slots=slots, decoder=args.decoder, lm=loaded.lm,
                          gate=getattr(args, "gate", True), hotwords=getattr(args, "hotwords", ()))

    return make


def say(message: object) -> None:
    """One line to the person at the terminal."""
    print(f"vivavoce: {message}", file=sys.stderr, flush=True)
