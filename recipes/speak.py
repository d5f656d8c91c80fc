"""`vivavoce speak`: text to a file or the loudspeaker.

Text comes from the command line, a file or stdin; sound from the synthesizer goes to `speech/audio.py` or
`speech/devices.py`, with `--stream` while it is made. `--lines` makes a recording of every line, many in a batch.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from vivavoce.recipes.options import count, say, usable, within
from vivavoce.speech import audio
from vivavoce.speech.devices import Loudspeaker
from vivavoce.speech.errors import BadAudio, BadSpeech
from vivavoce.speech.text import normalize
from vivavoce.speech.tts.flow import MOST_STEPS
from vivavoce.speech.tts.ssml import FASTEST, SLOWEST
from vivavoce.speech.tts.synthesizer import Speech, SpokenWord, Synthesizer, Voice
from vivavoce.streaming.engine import Slot
from vivavoce.streaming.errors import VivaVoceError

VOICE = "lj-en"
AHEAD = 64  # pieces of sound that wait to be played, at most
Texts = queue.SimpleQueue[str | None]  # pieces of a text; None: it is complete


class Sink(Protocol):
    """Where sound goes: `audio.Writer`, `Player`."""

    def write(self, pcm: Tensor) -> None: ...
    def close(self) -> None: ...


class Player:
    """A loudspeaker that plays on a thread of its own, so that more can be made meanwhile."""

    def __init__(self, speaker: Loudspeaker) -> None:
        self._speaker = speaker
        self._waiting: queue.Queue[Tensor | None] = queue.Queue(AHEAD)
        self._fault: VivaVoceError | None = None
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def write(self, pcm: Tensor) -> None:
        """Raises MissingDevice when the loudspeaker went away."""
        if self._fault:
            raise self._fault
        self._waiting.put(pcm)

    def close(self) -> None:
        """Returns when the last piece is with the device. Raises as `write`."""
        self._waiting.put(None)
        self._thread.join()
        if self._fault:
            raise self._fault

    def _play(self) -> None:
        while (pcm := self._waiting.get()) is not None:
            if self._fault is None:  # afterwards only to keep `write` from waiting
                try:
                    self._speaker.play(pcm)
                except VivaVoceError as e:
                    self._fault = e


def speak(synthesizer: Synthesizer, texts: Texts, *, rate: float = 1.0, seed: int = 0) -> Iterator[Speech]:
    """Speech as it is made, while text may still come. Raises BadSpeech, and what a Speech has as error."""
    slot = synthesizer.open(rate=rate, seed=seed)
    writing = busy = True
    try:
        while True:
            while writing and (piece := _next(texts, wait=not busy)) != "":
                busy = True
                if piece is None:
                    writing = False
                    synthesizer.finish(slot)
                else:
                    synthesizer.push(slot, piece)
            speech = synthesizer.step().get(slot)
            busy = speech is not None
            if speech:
                if speech.error:
                    raise speech.error
                yield speech
                if speech.done:
                    return
    finally:
        synthesizer.close(slot)


def _next(texts: Texts, *, wait: bool) -> str | None:
    """A piece; "" when none is there and we need not wait for one."""
    try:
        return texts.get(block=wait)
    except queue.Empty:
        return ""


def whole(text: str) -> Texts:
    texts: Texts = queue.SimpleQueue()
    texts.put(text)
    texts.put(None)
    return texts


def from_stdin() -> Texts:
    """What is written to stdin, as it is written."""
    texts: Texts = queue.SimpleQueue()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read() -> None:
        source = cast(io.BufferedReader, sys.stdin.buffer)  # which gives what there is, not what would fill a block
        while piece := source.read1(1 << 16):
            texts.put(decoder.decode(piece))
        texts.put(None)

    threading.Thread(target=read, daemon=True).start()
    return texts


@dataclass
class Line:
    """One recording of many: its text, where it goes, and why it failed."""

    text: str
    path: Path
    parts: list[Speech] = field(default_factory=list)
    error: str = ""


def speak_lines(synthesizer: Synthesizer, lines: Sequence[Line], *, rate: float = 1.0, seed: int = 0) -> Iterator[Line]:
    """Every line alone, as many at once as the synthesizer has places; yields each when it is done. A fault in one is
    its own `error`."""
    waiting, speaking = list(lines)[::-1], dict[Slot, Line]()
    while waiting or speaking:
        while waiting and synthesizer.free:
            line = waiting.pop()
            slot = synthesizer.open(rate=rate, seed=seed)
            try:
                synthesizer.push(slot, line.text)
                synthesizer.finish(slot)
                speaking[slot] = line
            except BadSpeech as e:
                synthesizer.close(slot)
                line.error = f"{line.path.name}: {e}"
                yield line
        for slot, speech in synthesizer.step().items():
            speaking[slot].parts.append(speech)
            if speech.done:
                synthesizer.close(slot)
                line = speaking.pop(slot)
                if speech.error:
                    line.error = f"{line.path.name}: {speech.error}"
                yield line


@dataclass
class Report:
    """What a speech was, without its sound, which for a book would fill the memory."""

    rate: int
    words: list[SpokenWord] = field(default_factory=list)
    samples: int = 0

    def add(self, speech: Speech) -> None:
        self.words += speech.words
        self.samples += len(speech.pcm)

    def check(self) -> None:
        """Raises BadSpeech where there was nothing to say."""
        if not self.words:
            raise BadSpeech("there is nothing in the text that can be spoken; give words or numbers in Latin letters")

    def times(self, voice: str) -> dict[str, object]:
        """What --json prints: the words with their seconds."""
        rate = self.rate
        words = [{"word": w.word, "start": round(w.start_sample / rate, 3), "end": round(w.end_sample / rate, 3)}
                 for w in self.words]  # fmt: skip
        return {"text": " ".join(w.word for w in self.words), "words": words,
                "duration": round(self.samples / rate, 3), "voice": voice}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vivavoce speak",
        description="Speak a text into a file, or out loud. [word|phonemes] says how a word is spoken, in ARPAbet or "
        "IPA; text that begins with <speak> is SSML (break, prosody rate, say-as, phoneme, sub).",
        epilog="Exit code: 0 all done, 1 failed (said on stderr; with --lines the others are written), 2 bad usage.",
    )
    parser.add_argument("text", nargs="?", metavar="TEXT|-", help="what to say; - reads stdin")
    parser.add_argument("-f", "--file", type=Path, metavar="FILE", help="a text file to speak")
    parser.add_argument("-o", "--out", type=Path, metavar="OUT.wav",
                        help="or .flac, .mp3, .opus, .ogg; a folder with --lines; default: the loudspeaker")
    parser.add_argument("--voice", default=VOICE, metavar="V", help="a name or a model folder (default: %(default)s)")
    parser.add_argument("--stream", action="store_true", help="play, or write, while text comes and sound is made")
    parser.add_argument("--lines", action="store_true", help="make a recording of every line: OUT/0001.wav ...")
    parser.add_argument("--format", choices=[ending[1:] for ending in audio.FORMATS], default="wav",
                        help="of the recordings of --lines (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the words with their times")
    parser.add_argument("--rate", type=within(SLOWEST, FASTEST), default=1.0, metavar="R",
                        help="0.5 to 2, 1 is the voice's own")
    parser.add_argument("--steps", type=within(1, MOST_STEPS), default=1, metavar="N",
                        help="of the solver, 1 to 10 (default: 1, best with lj-en)")
    parser.add_argument("--seed", type=within(-(2**63), 2**63 - 1), default=0, metavar="N",
                        help="another one, a slightly other reading")
    parser.add_argument("--batch", type=count, default=8, metavar="N", help="lines at once (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    parser.add_argument("--output-device", metavar="D", help="loudspeaker, by number or part of its name")
    return parser


def load_voice(source: str, device: str = "auto") -> Voice:
    """Raises BadCheckpoint for a voice that is not there, MissingDevice without a GPU."""
    from vivavoce.speech.tts.token_voice import TokenVoice
    from vivavoce.speech.tts.voice import Voice as Durations

    kind = TokenVoice if TokenVoice.is_one(source) else Durations
    return kind.load(source, device=usable(device))


def main(argv: Sequence[str] | None = None) -> int:
    """Raises what loading the voice raises, BadSpeech, BadAudio and MissingDevice."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.text is None) == (args.file is None):
        parser.error("give a TEXT, - for stdin, or --file FILE")
    if args.lines and (args.out is None or args.stream):
        parser.error("--lines needs -o FOLDER, and no --stream")
    if args.out and not args.lines and args.out.suffix.lower() not in audio.FORMATS:
        parser.error(f"-o {args.out}: end the name in one of {', '.join(audio.FORMATS)}")
    return _many(args) if args.lines else _one(args)


def _text(args: argparse.Namespace) -> str:
    if args.file is None and args.text != "-":
        return str(args.text)
    try:
        data = sys.stdin.buffer.read() if args.file is None else args.file.read_bytes()
    except OSError as e:
        raise BadSpeech(f"{args.file}: cannot be read ({e.strerror}); give a text file") from e
    return codecs.decode(data, "utf-8-sig", "replace")


def left_out(text: str) -> list[str]:
    """Words of other scripts, which the voice does not read."""
    words = re.sub(r"<[^>]*>", " ", text).split()
    return [word for word in words if any(map(str.isalpha, word)) and not normalize(word)]


def _one(args: argparse.Namespace) -> int:
    live = args.stream and args.text == "-"
    text = "" if live else _text(args)
    texts = from_stdin() if live else whole(text)
    if foreign := left_out(text):
        say(f"not spoken, for want of Latin letters: {' '.join(foreign[:8])}{' ...' * (len(foreign) > 8)}")
    synthesizer = Synthesizer(load_voice(args.voice, args.device), steps=args.steps)
    began, first, report = time.monotonic(), 0.0, Report(synthesizer.sample_rate)
    with ExitStack() as stack:
        sink = _sink(args, report.rate, stack) if args.stream and not args.out else None
        held: list[Tensor] = []  # until there is a word, so that a fault leaves no empty file; of a loudspeaker, all
        for speech in speak(synthesizer, texts, rate=args.rate, seed=args.seed):
            first = first or (time.monotonic() - began) * bool(len(speech.pcm))
            report.add(speech)
            held.append(speech.pcm)
            if args.out and report.words:
                sink = sink or _sink(args, report.rate, stack)
            if sink:
                _empty(held, sink)
        made = time.monotonic() - began
        report.check()
        sink = sink or _sink(args, report.rate, stack)
        _empty(held, sink)
        sink.close()
    _tell(args, report, made, first)
    return 0


def _empty(held: list[Tensor], sink: Sink) -> None:
    if held:
        sink.write(torch.cat(held))
        held.clear()


def _sink(args: argparse.Namespace, rate: int, stack: ExitStack) -> Sink:
    if args.out:
        return stack.enter_context(audio.Writer(args.out, rate))
    return Player(stack.enter_context(Loudspeaker(args.output_device, rate)))


def _tell(args: argparse.Namespace, report: Report, made: float, first: float) -> None:
    if args.json:
        print(json.dumps(report.times(args.voice), ensure_ascii=False))
    seconds = report.samples / report.rate
    where = f"{args.out}: " if args.out else ""
    say(f"{where}{seconds:.1f} s of speech made in {made:.1f} s, the first after {1000 * first:.0f} ms")


def _many(args: argparse.Namespace) -> int:
    texts = [text for text in map(str.strip, _text(args).splitlines()) if text]
    if not texts:
        raise BadSpeech("there is no line to speak")
    lines = [Line(text, args.out / f"{i:04d}.{args.format}") for i, text in enumerate(texts, 1)]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise BadAudio(f"-o {args.out} cannot be made ({e.strerror}); choose another folder") from e
    synthesizer = Synthesizer(load_voice(args.voice, args.device), slots=min(args.batch, len(lines)), steps=args.steps)
    console = Console(stderr=True)
    done = speak_lines(synthesizer, lines, rate=args.rate, seed=args.seed)
    for line in track(done, "speaking", len(lines), console=console, transient=True, disable=not console.is_terminal):
        _write(line, synthesizer.sample_rate, args)
    failed = [line for line in lines if line.error]
    for line in failed:
        say(line.error)
    say(f"{len(lines) - len(failed)} recordings in {args.out}, {len(failed)} failed")
    return 1 if failed else 0


def _write(line: Line, rate: int, args: argparse.Namespace) -> None:
    try:
        if not line.error:
            report = Report(rate)
            for part in line.parts:
                report.add(part)
            report.check()
            audio.write(line.path, torch.cat([part.pcm for part in line.parts]), rate)
            if args.json:
                print(json.dumps({"file": str(line.path), **report.times(args.voice)}, ensure_ascii=False), flush=True)
    except VivaVoceError as e:
        line.error = f"{line.path.name}: {e}"
    line.parts.clear()  # the sound is in its file


