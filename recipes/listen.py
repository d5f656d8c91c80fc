"""`vivavoce listen`: a microphone to text, live.

Blocks come from a microphone (speech/devices.py, or any iterator of samples), words from the recogniser, ends of
utterances from voice activity. What is still growing is one line at the bottom; what is finished scrolls up.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch import Tensor

from vivavoce.recipes.options import CLOCK, Lookahead, add_hearing, add_model, add_writing, lookahead, recognizers, say
from vivavoce.speech import audio
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.words import Update
from vivavoce.speech.devices import Microphone, list_devices
from vivavoce.speech.punctuate import Punctuator, Writer
from vivavoce.speech.turn import SpeechEnded, Turn
from vivavoce.speech.vad import Vad
from vivavoce.streaming.clock import Clock
from vivavoce.streaming.errors import VivaVoceError

LOOKAHEAD = "480"
ELSEWHERE = ("model", "decoder", "device", "precision", "gate", "hotwords")  # of a server's recogniser
SMALL = 30e6  # parameters; below this the matrices of one session are too small for threads to share


@dataclass
class Caption:
    """The words of the present utterance. `told` is a tail that already went out with the utterance before."""

    words: list[str] = field(default_factory=list)
    tail: str = ""
    told: str = ""

    def add(self, update: Update) -> bool:
        """Take what the recogniser gave; says whether anything is new."""
        changed = bool(update.stable) or update.tail != self.tail
        self.words += [word.word for word in update.stable]
        self.tail = update.tail
        return changed

    @property
    def shown(self) -> tuple[str, str]:
        """The words that stay, and the tail that may still change."""
        stable, everything = " ".join(self.words), " ".join(filter(None, (*self.words, self.tail)))
        if f"{everything} ".startswith(f"{self.told} "):  # else that last word has grown, and is said again, whole
            everything, stable = everything[len(self.told) :].lstrip(), stable[len(self.told) :].lstrip()
        return stable, everything[len(stable) :].lstrip()

    def finish(self) -> str:
        """The utterance as one line; the next begins after it."""
        text = " ".join(filter(None, self.shown))
        self.words, self.told = [], self.tail
        return text


class Utterances:
    """When an utterance has ended: by voice activity and the recogniser's silence, for one session."""

    def __init__(self, vad: Vad, worst_delay: int) -> None:
        self.vad, self.turn, self.worst_delay = vad, Turn(), worst_delay
        self.voice, self.state = vad.init_state(1), self.turn.init_state(1)
        self.due: list[int] = []  # the samples by which all words of utterances that ended will have come

    def ended(self, pcm: Tensor, heard: int, last_change: int) -> bool:
        """pcm (n,) makes it `heard` samples; the recogniser's text last changed when it had heard `last_change`."""
        running, more = torch.tensor([False]), torch.tensor([len(pcm)])
        speech, count = self.vad.step(pcm[None], self.voice, more, running)
        (events,) = self.turn.step(speech, self.state, count, running, torch.tensor([heard - last_change]))
        self.due += [event.at_sample + self.worst_delay for event in events if isinstance(event, SpeechEnded)]
        later = [due for due in self.due if due > heard]
        over, self.due = len(later) < len(self.due), later
        return over


class Screen(Protocol):
    """Where captions go."""

    def live(self, stable: str, tail: str) -> None: ...
    def final(self, text: str) -> None: ...


class Lines:
    """For pipes and files: finished utterances, a line each."""

    def live(self, stable: str, tail: str) -> None:
        """Only what is finished is written."""

    def final(self, text: str) -> None:
        print(text, flush=True)


class Terminal:
    """The growing line at the bottom, its unstable tail dim; finished lines scroll up."""

    def __init__(self, display: Live) -> None:
        self._display = display

    def live(self, stable: str, tail: str) -> None:
        self._display.update(Text.assemble(stable, " " if stable and tail else "", (tail, "dim")), refresh=True)

    def final(self, text: str) -> None:
        self._display.update(Text(), refresh=True)
        self._display.console.print(text, markup=False, highlight=False, emoji=False)


class Written:
    """A screen whose finished utterances have punctuation and capitals; what still grows stays plain."""

    def __init__(self, screen: Screen, writer: Writer) -> None:
        self._screen, self._writer = screen, writer
        self.live = screen.live

    def final(self, text: str) -> None:
        self._screen.final(self._writer.text(text))


def listen(recognizer: Recognizer, blocks: Iterable[Tensor], screen: Screen, frames: int, vad: Vad) -> None:
    """Recognise blocks (n,) at 16 kHz at lookahead R until they end, and show what was said as it is said.

    The last word is flushed when the blocks end, also when they end in an error of the device, which is then raised.
    """
    slot, caption = recognizer.open(lookahead=frames), Caption()
    utterances, changed_at = Utterances(vad, recognizer.clock.worst_delay(frames)), 0
    try:
        for block in chunked(blocks, frames, recognizer.clock):
            if caption.add(recognizer.step({slot: block})[slot]):
                changed_at = recognizer.heard(slot)
                screen.live(*caption.shown)
            if utterances.ended(block, recognizer.heard(slot), changed_at) and (text := caption.finish()):
                screen.final(text)
    finally:
        caption.add(recognizer.step({slot: torch.zeros(0)}, [slot])[slot])
        recognizer.close(slot)
        if text := caption.finish():
            screen.final(text)


def chunked(blocks: Iterable[Tensor], frames: int, clock: Clock) -> Iterator[Tensor]:
    """The same samples, held until the next chunk at lookahead R can be computed: no word comes later for it, and the
    work between chunks is saved. What is held comes out before an error of the device."""
    held, total, boundary = list[Tensor](), 0, clock.worst_delay(frames) - clock.frame
    try:
        for block in blocks:
            held.append(block)
            total += len(block)
            if total >= boundary:
                yield torch.cat(held)
                held, boundary = [], boundary + clock.chunk_samples(frames)
    except VivaVoceError:
        yield torch.cat([torch.zeros(0), *held])
        raise
    yield torch.cat([torch.zeros(0), *held])


def recorded(blocks: Iterable[Tensor], out: audio.Writer) -> Iterator[Tensor]:
    """The same blocks, each written before it is passed on."""
    for block in blocks:
        out.write(block)
        yield block


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `stop`; a second one breaks off as usual."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be had
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        restore()
        stop()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


@contextmanager
def screen(punctuate: bool = False) -> Iterator[Screen]:
    """The terminal when stdout is one, else lines; punctuate: finished utterances are `Written`."""
    def dressed(plain: Screen) -> Screen:
        return Written(plain, Writer(Punctuator.load())) if punctuate else plain

    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield dressed(Lines())
        return
    with Live(console=console, auto_refresh=False, transient=True, redirect_stderr=False) as display:
        yield dressed(Terminal(display))


def greeting(device: object, at: Lookahead) -> str:
    delay = CLOCK.ms(CLOCK.worst_delay(at.frames))
    return f"listening to {device}; lookahead {at.ms} ms, so a sound shows after {delay:.0f} ms at worst; Ctrl-C ends"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vivavoce listen",
        description="Show what a microphone hears as text: finished utterances as lines on stdout and, on a terminal, "
        "the words as they come, with what may still change dim. Ctrl-C ends, the last word included.",
    )
    parser.add_argument("--input-device", metavar="D", help="number, name or part of a name (see --list-devices)")
    parser.add_argument("--list-devices", action="store_true", help="show the microphones and end")
    add_model(parser)
    add_hearing(parser)
    add_writing(parser)
    parser.add_argument(
        "--lookahead",
        type=lookahead,
        default=LOOKAHEAD,
        metavar="MS",
        help="0 to 5520 ms: more is more accurate and later (default: %(default)s)",
    )
    parser.add_argument("--save", type=Path, metavar="FILE.wav", help="also write what was heard, at 16 kHz")
    parser.add_argument("--url", metavar="WS", help="let a server listen, like ws://localhost:8000; it has the model")
    parser.add_argument("--api-key", metavar="K", help="where the server asks for one")
    return parser


def _show_devices() -> int:
    inputs = [d for d in list_devices() if d.inputs]
    for d in inputs:
        print(f"{d}  ({d.inputs} channels, {d.rate} Hz{', default' if d.default_input else ''})")
    if not inputs:
        say("this machine has no microphone; plug one in, or start the sound server")
    return int(not inputs)


def _remote(args: argparse.Namespace) -> int:
    """The same with a server that listens. Raises NoServer, Refused, MissingDevice."""
    from vivavoce.recipes.remote import connected, follow

    with connected(args.url, args.api_key) as socket, Microphone(args.input_device) as microphone:
        say(greeting(f"{microphone.device}, through {args.url}", args.lookahead))
        saved = audio.Writer(args.save, CLOCK.rate) if args.save else nullcontext()
        with saved as out, on_interrupt(microphone.stop), screen(args.punctuate) as where:
            follow(socket, recorded(microphone, out) if out else microphone, where, args.lookahead.ms)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Raises MissingDevice, MissingDependency, BadAudio for --save, and what loading the model raises."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list_devices:
        return _show_devices()
    if args.lookahead.note:
        say(args.lookahead.note)
    if args.url:
        if unheeded := [f"--{name}" for name in ELSEWHERE if getattr(args, name) != parser.get_default(name)]:
            parser.error(f"{', '.join(unheeded)}: not with --url, the server decides")
        return _remote(args)
    recognizer, vad = recognizers(args)(1), Vad.load()
    if sum(p.numel() for p in recognizer.model.parameters()) < SMALL:
        torch.set_num_threads(1)  # threads that wait for each other cost more than they do, on a busy machine tenfold
    microphone = Microphone(args.input_device)
    with audio.Writer(args.save, CLOCK.rate) if args.save else nullcontext() as out, microphone:
        say(greeting(microphone.device, args.lookahead))
        with on_interrupt(microphone.stop), screen(args.punctuate) as where:
            blocks = recorded(microphone, out) if out else microphone
            listen(recognizer, blocks, where, args.lookahead.frames, vad)
    if microphone.dropped_seconds:
        say(f"{microphone.dropped_seconds:.1f} s were lost, this machine is too slow; take a larger --lookahead")
    return 0
