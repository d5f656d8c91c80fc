"""`vivavoce evaluate`: word and character errors, emission delay and speed over manifests, a row a set and lookahead.

Recordings are streamed through the recogniser, one chunk at a time and many sessions in one batch; what is counted is
what a live caller would have seen.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.options import Lookahead, add_hearing, add_model, count, lookahead, recognizers, say
from vivavoce.speech import audio
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import Errors, Score, interval, score, total
from vivavoce.speech.asr.words import Update
from vivavoce.speech.errors import BadManifest
from vivavoce.streaming.clock import Clock
from vivavoce.streaming.engine import Slot
from vivavoce.streaming.errors import VivaVoceError

LOOKAHEADS = "offline,1040,480,80,0"
EVERY = "all"  # the `--split` that leaves none out
DELAY = """emission delay: how much audio the recogniser had been given when it gave out a word's last token, less the
end of the word by the recogniser's own alignment; counted in samples, so it is the same on any machine. Audio is given
in chunks of the lookahead, each as soon as the model can use it. rtfx: seconds of audio a second of the recogniser's
work, reading files left out, with --sessions recordings in one batch. 95 %: where the WER of other such recordings
would lie, by bootstrap over speakers (over recordings where there are fewer than ten speakers). made up: words a minute
on recordings in which nobody speaks, which count for nothing else."""
SPEAKERS = 10  # fewer say little about others, so that recordings are drawn instead


@dataclass
class Session:
    """One recording on its way through the recogniser."""

    utterance: Utterance
    pushes: Iterator[tuple[Tensor, bool]]
    words: list[str] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)  # samples, one a word
    _tail: str = ""
    _tail_since: int = 0

    def take(self, update: Update, heard: int) -> None:
        """What a push gave out, `heard` samples into the recording.

        A word is only known to be complete when the next begins; its last token came when its text was last extended.
        """
        for i, word in enumerate(update.stable):
            emitted = self._tail_since if i == 0 and word.word == self._tail else heard
            self.words.append(word.word)
            self.delays.append(emitted - word.stop_sample)
        if update.stable or update.tail != self._tail:
            self._tail, self._tail_since = update.tail, heard


@dataclass
class Result:
    """One set at one lookahead. scores: by recording of speech, with its speaker; delays in samples; work in seconds;
    made_up: words heard in `noise_samples` samples of nobody speaking; failed: recordings that could not be read."""

    scores: list[tuple[str, Score]] = field(default_factory=list)
    made_up: int = 0
    noise_samples: int = 0
    delays: list[int] = field(default_factory=list)
    samples: int = 0
    work: float = 0.0
    failed: list[str] = field(default_factory=list)

    def take(self, session: Session, heard: int) -> None:
        said = session.utterance
        if said.is_noise:
            self.made_up += len(session.words)
            self.noise_samples += heard
        else:
            self.scores.append((said.speaker, score(said.text, " ".join(session.words))))
        self.delays += session.delays
        self.samples += heard

    @property
    def score(self) -> Score:
        return total(one for _, one in self.scores)

    @property
    def groups(self) -> list[Errors]:
        """Word errors of those who spoke, a speaker each, or a recording each where there are few speakers."""
        spoken = [(speaker, one.words) for speaker, one in self.scores if one.words.total]
        speakers = dict.fromkeys(speaker for speaker, _ in spoken)
        if len(speakers) < SPEAKERS:
            return [words for _, words in spoken]
        return [sum((words for who, words in spoken if who == speaker), Errors()) for speaker in speakers]


def pushes(pcm: Tensor, frames: int, clock: Clock) -> Iterator[tuple[Tensor, bool]]:
    """pcm (n,) as a live caller at lookahead R has it when each chunk can be computed: (samples, whether the last).

    The first chunk's last frame is centred on sample R * frame and reaches a little further; then come whole chunks.
    """
    end, start = clock.worst_delay(frames) - clock.frame, 0
    while end < len(pcm):
        yield pcm[start:end], False
        start, end = end, end + clock.chunk_samples(frames)
    yield pcm[start:], True


def evaluate(recognizer: Recognizer, utterances: Iterable[Utterance], frames: int) -> Result:
    """Stream every recording at lookahead R; recordings that cannot be read are named in the result."""
    result, running = Result(), dict[Slot, Session]()
    waiting = _sessions(sorted(utterances, key=lambda u: -u.seconds), frames, recognizer.clock, result.failed)
    while True:
        while recognizer.engine.free and (session := next(waiting, None)):
            running[recognizer.open(lookahead=frames)] = session
        if not running:
            return result
        _advance(recognizer, running, result)


def _sessions(utterances: Iterable[Utterance], frames: int, clock: Clock, failed: list[str]) -> Iterator[Session]:
    for utterance in utterances:
        try:
            pcm = audio.read(utterance.path, clock.rate)
        except (VivaVoceError, OSError) as e:
            failed.append(str(e))
            continue
        yield Session(utterance, pushes(pcm, frames, clock))


def _advance(recognizer: Recognizer, running: dict[Slot, Session], result: Result) -> None:
    fed = {slot: next(session.pushes) for slot, session in running.items()}
    ended = [slot for slot, (_, last) in fed.items() if last]
    began = time.perf_counter()
    updates = recognizer.step({slot: pcm for slot, (pcm, _) in fed.items()}, ended)
    result.work += time.perf_counter() - began
    for slot, update in updates.items():
        running[slot].take(update, recognizer.heard(slot))
    for slot in ended:
        result.take(running.pop(slot), recognizer.heard(slot))
        recognizer.close(slot)


def percentile(values: Sequence[float], q: float) -> float | None:
    """The q-th percentile by nearest rank; None of nothing."""
    return sorted(values)[max(0, math.ceil(len(values) * q / 100) - 1)] if values else None


def row(name: str, at: Lookahead, result: Result, clock: Clock) -> dict[str, Any]:
    """A line of `--json`: wer, its interval and cer as fractions (null where nothing was said), delays in ms."""
    words, characters = result.score.words, result.score.characters
    low, high = interval(result.groups)
    minutes = clock.seconds(result.noise_samples) / 60
    delays = [clock.ms(samples) for samples in result.delays]
    return {
        "set": name,
        "lookahead_ms": at.ms,
        "wer": _rate(words),
        "wer_interval": [round(low, 6), round(high, 6)] if math.isfinite(high) else None,
        "cer": _rate(characters),
        "emission_delay_ms": {"p50": percentile(delays, 50), "p95": percentile(delays, 95)},
        "rtfx": round(clock.seconds(result.samples) / result.work, 2) if result.work else None,
        "words": words.total, "substituted": words.substituted, "deleted": words.deleted, "inserted": words.inserted,
        "characters": {"total": characters.total, "substituted": characters.substituted,
                       "deleted": characters.deleted, "inserted": characters.inserted},
        "made_up_per_minute": round(result.made_up / minutes, 4) if minutes else None,
        "seconds": round(clock.seconds(result.samples), 3),
        "failed": len(result.failed),
    }  # fmt: skip


def _rate(errors: Errors) -> float | None:
    return round(errors.rate, 6) if errors.total else None


HEAD = (
    "set", "lookahead ms", "WER %", "95 %", "CER %", "words", "sub", "del", "ins", "delay p50 ms", "p95", "RTFx",
    "made up",
)  # fmt: skip
WIDEST = {"95 %": len("1000.0-1000.0")}


def cells(r: dict[str, Any]) -> tuple[str, ...]:
    """A row as text, in the order of HEAD."""
    delay = r["emission_delay_ms"]
    return (
        r["set"],
        str(r["lookahead_ms"]),
        _number(r["wer"], 100, 2),
        "-" if r["wer_interval"] is None else "-".join(f"{100 * end:.1f}" for end in r["wer_interval"]),
        _number(r["cer"], 100, 2),
        str(r["words"]),
        str(r["substituted"]),
        str(r["deleted"]),
        str(r["inserted"]),
        _number(delay["p50"]),
        _number(delay["p95"]),
        _number(r["rtfx"], 1, 1),
        _number(r["made_up_per_minute"], 1, 2),
    )


def _number(value: float | None, factor: float = 1, digits: int = 0) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"


def line(texts: Sequence[str], first: int) -> str:
    """One line of the table; first: how wide the names are."""
    widths = (max(6, len(head), WIDEST.get(head, 0)) for head in HEAD[1:])
    columns = (f"{text:>{width}}" for text, width in zip(texts[1:], widths, strict=True))
    return "  ".join([f"{texts[0]:{first}}", *columns])


def sets(path: Path, split: str, limit: int | None) -> dict[str, list[Utterance]]:
    """The recordings to score, by the folder their manifest lies in: of one manifest, or of every one a folder below.

    Speech nobody wrote down is left out. Raises BadManifest, also when nothing is left.
    """
    files = sorted(path.glob(f"*/{manifest.NAME}")) if path.is_dir() and not (path / manifest.NAME).exists() else []
    found, splits = dict[str, list[Utterance]](), set[str]()
    for file in files or [path]:
        utterances = [u for u in manifest.load(file) if u.text or u.is_noise]
        splits |= {u.split for u in utterances}
        if chosen := [u for u in utterances if split in (EVERY, u.split)][:limit]:
            found[_name(file)] = chosen
    if not found:
        there = ", ".join(sorted(splits)) or "nothing"
        raise BadManifest(f"{path}: nothing to score in split {split!r}; there is {there}")
    return found


def _name(file: Path) -> str:
    return (file if file.is_dir() else file.parent).resolve().name


def _lookaheads(text: str) -> list[Lookahead]:
    return [lookahead(part.strip()) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vivavoce evaluate", epilog=DELAY, description="Word errors, emission delay and speed of a model, by lookahead."
    )
    parser.add_argument(
        "manifest",
        type=Path,
        metavar="MANIFEST",
        help="a TSV manifest, a folder with manifest.tsv, or a folder of such folders",
    )
    add_model(parser)
    add_hearing(parser)
    parser.add_argument(
        "--lookahead",
        type=_lookaheads,
        default=LOOKAHEADS,
        metavar="MS,MS,...",
        help="in ms, or offline (default: %(default)s)",
    )
    parser.add_argument("--split", default="dev", help=f"or {EVERY} (default: %(default)s)")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N recordings of each set")
    parser.add_argument(
        "--sessions",
        type=count,
        default=16,
        metavar="N",
        help="recordings at once; changes the speed and nothing else (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]} instead of a table')
    return parser


def rows(
    found: dict[str, list[Utterance]], lookaheads: Sequence[Lookahead], make: Callable[[int], Recognizer], sessions: int
) -> Iterator[dict[str, Any]]:
    """Every set at every lookahead; recordings that cannot be read are named on stderr, once each."""
    told = set[str]()
    for name, utterances in found.items():
        for at in lookaheads:
            recognizer = make(min(sessions, len(utterances)))
            result = evaluate(recognizer, utterances, at.frames)
            for error in result.failed:
                if error not in told:
                    say(error)
                told.add(error)
            yield row(name, at, result, recognizer.clock)


def main(argv: Sequence[str] | None = None) -> int:
    """0 all done, 1 some recordings could not be read. Raises BadManifest, and what loading the model raises."""
    args = _parser().parse_args(argv)
    for at in args.lookahead:
        if at.note:
            say(at.note)
    found = sets(args.manifest, args.split, args.limit)
    done, width = list[dict[str, Any]](), max(map(len, (HEAD[0], *found)))
    if not args.json:
        print(line(HEAD, width), flush=True)
    for r in rows(found, args.lookahead, recognizers(args), args.sessions):
        done.append(r)
        if not args.json:
            print(line(cells(r), width), flush=True)
    if args.json:
        print(json.dumps({"rows": done}, indent=2, allow_nan=False))
    return int(any(r["failed"] for r in done))
