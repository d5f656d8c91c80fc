"""`vivavoce bench tts`: how soon a voice begins, how fast it speaks, how many it serves, beside espeak-ng and flite.

Sessions run on a clock that only work moves: text arrives on it as a language model writes, listeners play on it what
they are given, and where sound comes later than it is needed an underrun is counted. Rows go to `report`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vivavoce.recipes.bench.report import Row, run
from vivavoce.recipes.data import voices
from vivavoce.recipes.options import say
from vivavoce.recipes.speak import VOICE, load_voice
from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.tts.synthesizer import Speech, Synthesizer, Voice
from vivavoce.streaming.engine import Slot

TEXT = """
The ship had been at sea for seven days when the wind turned north, and the captain, who had seen such weather before,
asked for all hands on deck. Nobody slept that night.
"""
WORDS = TEXT.split()
AT_ONCE = 5  # words that are there when a session begins; the others follow
WORDS_A_SECOND = 10.0
PEERS = {"espeak-ng": voices.Voice("espeak-ng", "en-us", 50, 50, 165, 0.5),
         "flite": voices.Voice("flite", "slt", 180, 50, 165, 0.5)}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """sessions: how many at once, case by case; rounds: how often each case runs."""

    sessions: tuple[int, ...] = (1, 4, 16)
    rounds: int = 6


QUICK = Plan(sessions=(1, 4), rounds=3)


@dataclass
class Listener:
    """One session's text still to come, as (seconds, word), and how its sound arrived.

    first: seconds until the first sound; starts: when the sound that is there began to play, or would have without a
    gap; made: seconds of sound; underruns: how often sound came too late.
    """

    coming: list[tuple[float, str]]
    first: float | None = None
    starts: float = 0.0
    made: float = 0.0
    underruns: int = 0
    done: bool = False

    def hear(self, speech: Speech, now: float, rate: int) -> None:
        if len(speech.pcm):
            if self.first is None:
                self.first = self.starts = now
            late = now - (self.starts + self.made)
            if late > 0 and self.made:
                self.underruns += 1
                self.starts += late
            self.made += len(speech.pcm) / rate
        self.done = speech.done


@dataclass
class Figures:
    """Of one case: seconds to the first sound of every session, underruns, seconds of work and of sound."""

    first: list[float] = field(default_factory=list)
    underruns: int = 0
    work: float = 0.0
    sound: float = 0.0


def sessions(synthesizer: Synthesizer, count: int, figures: Figures,
             now: Callable[[], float] = time.perf_counter) -> None:
    """`count` sessions that begin together, spoken to their end."""
    slots = {synthesizer.open(seed=i): Listener(arrivals()) for i in range(count)}
    clock = 0.0
    while not all(listener.done for listener in slots.values()):
        began = now()
        for slot, listener in slots.items():
            _write(synthesizer, slot, listener, clock)
        made = synthesizer.step()
        spent = now() - began
        clock += spent
        figures.work += spent
        for slot, speech in made.items():
            slots[slot].hear(speech, clock, synthesizer.sample_rate)
        if not made:
            clock = max(clock, min((at for lis in slots.values() for at, _ in lis.coming), default=clock))
    for slot, listener in slots.items():
        synthesizer.close(slot)
        figures.first.append(listener.first or 0.0)
        figures.underruns += listener.underruns
        figures.sound += listener.made


def arrivals() -> list[tuple[float, str]]:
    """(seconds, word with the space that makes it certain)."""
    return [(max(0.0, (i + 1 - AT_ONCE) / WORDS_A_SECOND), f"{word} ") for i, word in enumerate(WORDS)]


def _write(synthesizer: Synthesizer, slot: Slot, listener: Listener, clock: float) -> None:
    if not listener.coming:
        return
    while listener.coming and listener.coming[0][0] <= clock:
        synthesizer.push(slot, listener.coming.pop(0)[1])
    if not listener.coming:
        synthesizer.finish(slot)


def measure(quick: bool) -> list[Row]:
    plan = QUICK if quick else Plan()
    peers = {name: peer for name in PEERS if (peer := _peer(name))}
    rows = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        rows += cases(load_voice(VOICE, device), device, plan, peers)
    return rows


@dataclass(frozen=True)
class Peer:
    """seconds: to say the first five words; rtf: seconds of work for a second of speech."""

    seconds: float
    rtf: float


def _peer(name: str) -> Peer | None:
    """It makes a whole text at once; so its first sound is that of a text of five words. None where it is missing."""
    text = " ".join(WORDS)
    try:
        voices.say(text, PEERS[name])
        first, rtf = [], []
        for _ in range(5):
            first.append(_timed(lambda: voices.say(" ".join(WORDS[:AT_ONCE]), PEERS[name])))
            began = time.perf_counter()
            rtf.append(voices.RATE / len(voices.say(text, PEERS[name])) * (time.perf_counter() - began))
    except MissingDependency as e:
        say(f"{name} is left out: {e}")
        return None
    return Peer(statistics.median(first), statistics.median(rtf))


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def cases(voice: Voice, device: str, plan: Plan, peers: dict[str, Peer]) -> list[Row]:
    """Of one device."""
    rows: list[Row] = []
    for count in plan.sessions:
        synthesizer, figures = Synthesizer(voice, slots=count), Figures()
        synthesizer.speak("Ready?")
        for _ in range(plan.rounds):
            sessions(synthesizer, count, figures)
        where = f"{device}, {count} session{'s' * (count > 1)}"
        median, p95 = (float(np.quantile(figures.first, q)) for q in (0.5, 0.95))
        rtf = figures.work / figures.sound
        for name, peer in peers.items():
            rows += [
                _faster(f"{where}: first audio after {AT_ONCE} words, median; {name}", median, peer.seconds * count),
                _faster(f"{where}: first audio after {AT_ONCE} words, p95; {name}", p95, peer.seconds * count),
                Row(f"{where}: real-time factor, all together; {name}", rtf, peer.rtf, "s/s", peer.rtf / rtf),
            ]
        none = 1.0 if figures.underruns == 0 else 0.0
        rows.append(Row(f"{where}: underruns in {len(figures.first)} replies; goal", figures.underruns, 0, "", none))
    return rows


def _faster(case: str, ours: float, theirs: float) -> Row:
    return Row(case, 1e3 * ours, 1e3 * theirs, "ms", theirs / ours)


def main(argv: Sequence[str] | None = None) -> int:
    """Raises BadCheckpoint where the voice is not there."""
    about = f"The voice {VOICE} beside espeak-ng and flite; a GPU too where there is one."
    return run("tts", about, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
