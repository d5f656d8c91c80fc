"""`vivavoce transcribe`: recordings to text, JSON or subtitles, many at once.

Files, patterns and folders come from the command line. Recordings of like length share a batch and are read in blocks,
so memory is bounded by `--batch-seconds` whatever their length; transcripts go to stdout or into a folder.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from vivavoce.recipes.options import CLOCK, add_hearing, add_model, add_writing, lookahead, positive, recognizers, say
from vivavoce.speech import audio
from vivavoce.speech.asr.recognizer import BLOCK_SECONDS, Recognizer
from vivavoce.speech.asr.transcript import FORMATS, Transcript
from vivavoce.speech.punctuate import Punctuator, Writer
from vivavoce.streaming.errors import VivaVoceError

RATE = CLOCK.rate
AUDIO = (
    "wav flac ogg oga opus mp3 aif aiff aifc au caf w64 rf64 sph amr m4a m4b aac wma wv ape mp4 mov mkv webm 3gp avi"
)
SUFFIXES = frozenset(f".{kind}" for kind in AUDIO.split())


@dataclass(eq=False)
class Recording:
    """One input. name: where its transcript goes below the output folder, without an ending. heard: seconds read so
    far; error: why it could not be read, or not to its end."""

    path: Path
    name: Path
    seconds: float = 0.0
    heard: float = 0.0
    transcript: Transcript | None = None
    error: str = ""
    done: bool = False

    def blocks(self) -> Iterator[Tensor]:
        """Its samples; a fault ends it and is kept in `error`, so that the recordings beside it go on."""
        try:
            for block in audio.blocks(self.path, RATE, BLOCK_SECONDS):
                self.heard += len(block) / RATE
                yield block
        except (VivaVoceError, OSError) as e:
            self.error = str(e)

    def measure(self) -> None:
        try:
            self.seconds = audio.info(self.path).seconds
        except (VivaVoceError, OSError) as e:
            self.error = str(e)

    @property
    def usable(self) -> Transcript | None:
        """The transcript, unless a fault came before any word."""
        return self.transcript if self.transcript and (self.transcript.words or not self.error) else None


def find(patterns: Iterable[str]) -> list[Recording]:
    """Files, patterns and folders (searched for audio by their endings) as recordings, each file once.

    A transcript is named after its file, below a folder argument with the folders between; equal names are numbered.
    """
    found: list[Recording] = []
    seen: set[str] = set()
    names: set[str] = set()
    for path, name, error in (item for pattern in patterns for item in _expand(pattern)):
        if (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            found.append(Recording(path, _unused(name, names), error=error))
    return found


def _expand(pattern: str) -> Iterator[tuple[Path, Path, str]]:
    """(path, name, error) of everything an argument stands for."""
    matches = [] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
    for path in map(Path, matches or [pattern]):
        if not path.is_dir():
            yield path, Path(path.stem), ""
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != ".")
        for p in inside:
            yield p, p.relative_to(path).with_suffix(""), ""
        if not inside:
            yield path, Path(path.name), f"{path} holds no audio files; give one that does, or name the files"


def _unused(name: Path, names: set[str]) -> Path:
    """`name`, or the first of name-2, name-3 ... that nobody has; file systems may not tell upper from lower case."""
    candidate, number = name, 1
    while str(candidate).lower() in names:
        number += 1
        candidate = name.with_name(f"{name.name}-{number}")
    names.add(str(candidate).lower())
    return candidate


def batches(recordings: Iterable[Recording], batch_seconds: float) -> Iterator[tuple[list[Recording], int]]:
    """(recordings, how many of them at once), longest first, so that at once x longest block <= batch_seconds."""
    waiting = sorted(recordings, key=lambda r: -r.seconds)
    while waiting:
        block = min(max(waiting[0].seconds, 1.0), BLOCK_SECONDS)
        slots = max(1, int(batch_seconds / block))
        long = sum(r.seconds >= BLOCK_SECONDS for r in waiting)
        batch, waiting = waiting[: max(slots, long)], waiting[max(slots, long) :]
        yield batch, min(slots, len(batch))


def transcribe(
    recordings: Sequence[Recording], make: Callable[[int], Recognizer], frames: int, batch_seconds: float
) -> Iterator[Recording]:
    """Fills in `transcript` and `error` of each recording, and yields it when it is done.

    make: a recogniser of so many sessions; frames: the lookahead R. A fault in one recording is its own `error`.
    """
    for recording in recordings:
        if not recording.error:
            recording.measure()
        if recording.error:
            yield recording
    for batch, slots in batches((r for r in recordings if not r.error), batch_seconds):
        recognizer = make(slots)
        for i, transcript in recognizer.transcribe_streams([r.blocks() for r in batch], lookahead=frames):
            batch[i].transcript = transcript
            yield batch[i]


def punctuated(done: Iterable[Recording], writer: Writer) -> Iterator[Recording]:
    """The same recordings, their transcripts written with punctuation and capitals."""
    for recording in done:
        if recording.transcript:
            recording.transcript = writer.transcript(recording.transcript)
        yield recording


@dataclass
class Folder:
    """Writes each transcript into its own file below `path` as soon as it is there."""

    path: Path
    format: str

    def take(self, recording: Recording) -> None:
        if transcript := recording.usable:
            target = self.path / recording.name.parent / f"{recording.name.name}.{self.format}"
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(FORMATS[self.format](transcript), encoding="utf-8")
            except OSError as e:
                recording.error = f"{target} cannot be written ({e.strerror}); free or choose another --output-dir"

    def close(self) -> None:
        """Nothing waits."""


@dataclass
class Stdout:
    """Prints transcripts in the order of the inputs; what is finished early waits for those before it."""

    recordings: Sequence[Recording]
    format: str
    _printed: int = 0
    _done: set[Recording] = field(default_factory=set)

    def take(self, recording: Recording) -> None:
        self._done.add(recording)
        while self._printed < len(self.recordings) and self.recordings[self._printed] in self._done:
            self._print(self.recordings[self._printed])
            self._printed += 1

    def close(self) -> None:
        """After an interruption: what is finished but still waits."""
        for recording in self.recordings[self._printed :]:
            if recording in self._done:
                self._print(recording)

    def _print(self, recording: Recording) -> None:
        if transcript := recording.usable:
            several = len(self.recordings) > 1
            print(
                labelled(recording.path, transcript, self.format) if several else FORMATS[self.format](transcript),
                end="",
                flush=True,
            )


def labelled(path: Path, transcript: Transcript, kind: str) -> str:
    """A transcript among others: below a line with its file's name; as JSON, one object a line with "file" in it."""
    text = FORMATS[kind](transcript)
    if kind == "json":
        return json.dumps({"file": str(path), **json.loads(text)}, ensure_ascii=False) + "\n"
    return f"==> {path} <==\n{text}\n"


class _Speed(ProgressColumn):
    """Seconds of audio a second of work."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / task.elapsed:.1f}x real time" if task.elapsed else "")


class _Bar(Progress):
    """Seconds heard of all there are, on stderr, and only where a person sees it."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        console = Console(stderr=True, soft_wrap=True)  # what is printed beside the bar keeps its lines
        self._recordings = recordings
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            _Speed(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            disable=not console.is_terminal,
        )
        self.add_task("reading", total=None)

    def get_renderables(self) -> Iterable[RenderableType]:
        done, heard = sum(r.done for r in self._recordings), sum(r.heard for r in self._recordings)
        total = sum(r.seconds for r in self._recordings) or None
        for task in self.tasks:
            self.update(task.id, description=f"{done}/{len(self._recordings)} files", total=total, completed=heard)
        return super().get_renderables()


def run(recordings: Sequence[Recording], done: Iterator[Recording], take: Callable[[Recording], None]) -> str:
    """Drive the work with a progress bar and errors on stderr as they come; returns the summary line."""
    began = time.monotonic()
    with _Bar(recordings):
        for recording in done:
            take(recording)
            recording.done = True
            if recording.error:
                say(fault(recording))
    return summary(recordings, time.monotonic() - began)


def fault(recording: Recording) -> str:
    """Why a recording failed, and what there is of it all the same."""
    kept = recording.usable
    return recording.error + (f" (its first {kept.duration:.1f} s were transcribed)" if kept else "")


def summary(recordings: Sequence[Recording], took: float) -> str:
    heard, failed = sum(r.heard for r in recordings), sum(bool(r.error) for r in recordings)
    return (
        f"{len(recordings) - failed} transcribed, {failed} failed; {heard:.1f} s of audio in {took:.1f} s "
        f"({heard / max(took, 1e-9):.1f}x real time)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vivavoce transcribe",
        description="Transcribe recordings: any file that libsndfile reads, any rate, any number of channels; with "
        "ffmpeg installed, video and the rest too.",
        epilog="Exit code: 0 all done, 1 some inputs failed (named on stderr, the others written), 2 bad usage.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="files, patterns ('talks/**/*.mp3') or folders")
    add_model(parser)
    add_hearing(parser)
    add_writing(parser)
    parser.add_argument(
        "--lookahead",
        type=lookahead,
        default="offline",
        metavar="MS|offline",
        help="how far ahead the model listens, 0 to 5520 ms; offline is the most (default)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="txt",
        help="(default: %(default)s); several JSON transcripts on stdout come one a line",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="write DIR/NAME.FORMAT for each input instead of printing; folders keep their structure",
    )
    parser.add_argument(
        "--batch-seconds",
        type=positive,
        default=120.0,
        metavar="S",
        help="audio in one step; more is faster on a GPU and takes more memory (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 all done, 1 some inputs failed. Raises what loading the model raises."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.output_dir:
            args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        parser.error(f"--output-dir {args.output_dir} cannot be made ({e.strerror}); choose another")
    if args.lookahead.note:
        say(args.lookahead.note)
    recordings = find(args.files)
    output = Folder(args.output_dir, args.format) if args.output_dir else Stdout(recordings, args.format)
    done = transcribe(recordings, recognizers(args), args.lookahead.frames, args.batch_seconds)
    if args.punctuate:
        done = punctuated(done, Writer(Punctuator.load()))
    try:
        print(run(recordings, done, output.take), file=sys.stderr)
    finally:
        output.close()
    return int(any(r.error for r in recordings))
