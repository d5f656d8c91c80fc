"""`vivavoce chat`: a conversation in text with a language model, its replies streamed as they are made.

Lines come from the terminal or a pipe, one turn each; replies go to stdout. All else is speech/llm/assistant.py.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch

from vivavoce.speech.llm.assistant import LIVELY, MODEL, Assistant, Conversation
from vivavoce.speech.llm.sampling import Sampling
from vivavoce.streaming.cache_policy import SinkRing
from vivavoce.streaming.eight_bits import DTYPES
from vivavoce.streaming.errors import VivaVoceError

from .options import count, say, usable

PROMPT = "> "


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 at the end of the input, 1 when a reply failed, 2 for bad usage. Raises what loading raises."""
    args = _parser().parse_args(argv)
    assistant = load(args)
    conversation = assistant.open(instructions=args.system)
    failed = False
    for line in turns():
        try:
            reply(assistant, conversation, line, args.max_tokens)
        except VivaVoceError as e:  # what this turn asked for cannot be; the conversation goes on
            say(e)
            failed = True
            if conversation.slot not in assistant:
                conversation = assistant.open(instructions=args.system)
    return int(failed)


def load(args: argparse.Namespace) -> Assistant:
    device = usable(args.device)
    sampling = Sampling(temperature=args.temperature, top_p=LIVELY.top_p, seed=args.seed)
    return Assistant.load(
        args.model,
        slots=1,
        policy=SinkRing(window=args.window),
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        device=device,
        sampling=sampling,
        kept=args.kept,
    )


def turns() -> Iterator[str]:
    """Lines that say something, until the input ends."""
    interactive = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are a turn like any other
    while True:
        if interactive:
            print(PROMPT, end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            if interactive:
                print()
            return
        if line.strip():
            yield line.strip()


def reply(assistant: Assistant, conversation: Conversation, text: str, max_tokens: int) -> None:
    """Print the answer as it comes; Ctrl-C stops it, and before its first word leaves the turn open for what is said
    next. Raises what the assistant raises, and what a session failed of."""
    before = conversation.turn if conversation.reply is None else ""
    assistant.reply(conversation, f"{before} {text}".strip(), max_tokens=max_tokens)
    with interruptions() as interrupted:
        while not assistant.idle:
            for piece in assistant.step():
                print(piece.text, end="", flush=True)
                if piece.error:
                    print()
                    raise piece.error
            if interrupted:
                assistant.cancel(conversation)
                print(" ...", end="")
                break
    print(flush=True)


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """A list that Ctrl-C makes longer, instead of breaking off whatever runs."""
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def temperature(text: str) -> float:
    """An argparse type: 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def seed(text: str) -> int:
    """An argparse type: a whole number of 64 bits."""
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} has more than 64 bits")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vivavoce chat",
        description="Talk to a language model in text. One line is one turn; Ctrl-C stops a reply, Ctrl-D ends.",
    )
    parser.add_argument(
        "--model",
        default=MODEL,
        metavar="M",
        help="a shipped name, a folder, or a Hub id of a Qwen2, Qwen3 or Llama chat model (default: %(default)s)",
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="instructions for the whole conversation")
    parser.add_argument("--max-tokens", type=count, default=256, metavar="N", help="of a reply (default: %(default)s)")
    parser.add_argument("--window", type=count, default=1020, metavar="N",
                        help="tokens the model still sees, besides the first 4 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--kept", choices=tuple(DTYPES), help="keys and values in 8 bits: a quarter of the memory, but "
                        "slower and a little off (default: as the weights)")  # fmt: skip
    parser.add_argument("--temperature", type=temperature, default=LIVELY.temperature, metavar="T",
                        help="0 takes the likeliest word (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of the random numbers (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto",
                        help="where the model runs; auto takes a GPU when there is one (default)")  # fmt: skip
    return parser
