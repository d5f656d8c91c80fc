"""A finished transcript and the files it is written as: txt, json, srt, vtt.

Words come from words.py; every formatter is a pure function from a `Transcript` to the text of one file. Times are
samples inside and become seconds only here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from .words import Word

LINE_CHARS = 42  # the broadcasters' usual limits: two lines of 42, at most seven seconds, at least one
CUE_LINES = 2
CUE_SECONDS = 7.0
MIN_CUE_SECONDS = 1.0
PAUSE_SECONDS = 0.6  # a silence this long ends a cue


@dataclass(frozen=True)
class Transcript:
    """What was said in one stream of `samples` samples. lookahead_ms: how far ahead the recogniser listened."""

    words: tuple[Word, ...]
    samples: int
    sample_rate: int = 16000
    model: str = ""
    lookahead_ms: int | None = None

    @property
    def text(self) -> str:
        return " ".join(w.word for w in self.words)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sample_rate


@dataclass(frozen=True)
class Cue:
    """One subtitle: up to two lines of up to 42 characters, shown for [start_sample, stop_sample)."""

    lines: tuple[str, ...]
    start_sample: int
    stop_sample: int


def to_txt(transcript: Transcript) -> str:
    """The text and a newline; an empty transcript is an empty file."""
    return f"{transcript.text}\n" if transcript.words else ""


def to_json(transcript: Transcript) -> str:
    """One object: text, words (word, start, end in seconds, confidence), duration, model, lookahead_ms."""
    rate = transcript.sample_rate
    words = [
        {
            "word": w.word,
            "start": round(w.start_sample / rate, 3),
            "end": round(w.stop_sample / rate, 3),
            "confidence": round(w.confidence, 4),
        }
        for w in transcript.words
    ]
    fields = {
        "text": transcript.text,
        "words": words,
        "duration": round(transcript.duration, 3),
        "model": transcript.model,
        "lookahead_ms": transcript.lookahead_ms,
    }
    return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, a comma before the milliseconds."""
    blocks = [
        f"{i}\n{_times(cue, transcript.sample_rate, ',')}\n" + "".join(f"{line}\n" for line in cue.lines)
        for i, cue in enumerate(cues(transcript), start=1)
    ]
    return "\n".join(blocks)


def to_vtt(transcript: Transcript) -> str:
    """WebVTT, with &, < and > written as the entities it asks for."""
    blocks = [
        f"{_times(cue, transcript.sample_rate, '.')}\n" + "".join(f"{_escape(line)}\n" for line in cue.lines)
        for cue in cues(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


FORMATS: dict[str, Callable[[Transcript], str]] = {"txt": to_txt, "json": to_json, "srt": to_srt, "vtt": to_vtt}


def cues(transcript: Transcript) -> list[Cue]:
    """Subtitles, split at pauses and sentence ends, when two lines are full, and after seven seconds.

    They neither overlap nor run past the audio; a short one stays for a second where the next one leaves room.
    """
    groups = list(_groups(transcript.words, transcript.sample_rate))
    starts = [g[0].start_sample for g in groups] + [transcript.samples]
    least = round(MIN_CUE_SECONDS * transcript.sample_rate)
    return [
        Cue(tuple(wrap(w.word for w in group)), start, max(group[-1].stop_sample, min(start + least, following)))
        for group, (start, following) in zip(groups, pairwise(starts), strict=True)
    ]


def wrap(words: Iterable[str], width: int = LINE_CHARS) -> list[str]:
    """Words on lines of at most `width` characters; only a word longer than a line is broken."""
    lines: list[str] = []
    for word in words:
        for part in (word[i : i + width] for i in range(0, len(word), width)):
            if lines and len(lines[-1]) + 1 + len(part) <= width:
                lines[-1] += f" {part}"
            else:
                lines.append(part)
    return lines


def _groups(words: Iterable[Word], rate: int) -> Iterable[list[Word]]:
    group: list[Word] = []
    for word in words:
        if group and _starts_cue(group, word, rate):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _starts_cue(group: list[Word], word: Word, rate: int) -> bool:
    """Whether `word` belongs on the next subtitle rather than at the end of this one."""
    last = group[-1]
    pause = word.start_sample - last.stop_sample >= PAUSE_SECONDS * rate
    sentence = last.word.endswith((".", "?", "!")) and len(" ".join(w.word for w in group)) >= LINE_CHARS // 2
    full = len(wrap([*(w.word for w in group), word.word])) > CUE_LINES
    long = word.stop_sample - group[0].start_sample > CUE_SECONDS * rate
    return pause or sentence or full or long


def _times(cue: Cue, rate: int, point: str) -> str:
    return f"{_clock(cue.start_sample, rate, point)} --> {_clock(cue.stop_sample, rate, point)}"


def _clock(sample: int, rate: int, point: str) -> str:
    """HH:MM:SS and milliseconds, in whole-number arithmetic."""
    seconds, ms = divmod(sample * 1000 // rate, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{ms:03d}"


def _escape(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
