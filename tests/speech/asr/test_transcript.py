"""Transcript files: the JSON contract, and subtitles within their limits."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech.asr.transcript import (
    CUE_LINES,
    FORMATS,
    LINE_CHARS,
    Transcript,
    cues,
    to_json,
    to_srt,
    to_txt,
    to_vtt,
    wrap,
)
from vivavoce.speech.asr.words import Word

TWO = Transcript(
    (Word("hello", 640, 8640, 0.98765), Word("world", 40000, 48000, 0.5)), 64000, model="small-en", lookahead_ms=480
)


def test_json_is_the_contract() -> None:
    assert json.loads(to_json(TWO)) == {
        "text": "hello world",
        "words": [
            {"word": "hello", "start": 0.04, "end": 0.54, "confidence": 0.9877},
            {"word": "world", "start": 2.5, "end": 3.0, "confidence": 0.5},
        ],
        "duration": 4.0,
        "model": "small-en",
        "lookahead_ms": 480,
    }


def test_srt_numbers_its_cues_and_splits_at_a_pause() -> None:
    assert to_srt(TWO) == ("1\n00:00:00,040 --> 00:00:01,040\nhello\n\n2\n00:00:02,500 --> 00:00:03,500\nworld\n")


def test_vtt_has_its_header_and_escapes_markup() -> None:
    spoken = Transcript((Word("<b>&", 0, 16000, 1.0),), 16000)
    assert to_vtt(spoken) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n&lt;b&gt;&amp;\n"


def test_hours_are_counted() -> None:
    late = Transcript((Word("late", 16000 * 36061, 16000 * 36062, 1.0),), 16000 * 36100)
    assert "10:01:01,000 --> 10:01:02,000" in to_srt(late)


@pytest.mark.parametrize(("name", "expected"), [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n")])
def test_silence_is_an_empty_file(name: str, expected: str) -> None:
    assert FORMATS[name](Transcript((), 16000)) == expected


def test_silence_as_json_has_no_words() -> None:
    assert json.loads(to_json(Transcript((), 16000)))["words"] == []


def test_a_word_longer_than_a_line_is_broken_and_nothing_is_lost() -> None:
    lines = wrap(["a" * 50, "b"])
    assert lines == ["a" * 42, "a" * 8 + " b"]


@given(
    st.lists(st.tuples(st.text("abc.?", min_size=1, max_size=30), st.integers(0, 20000), st.integers(0, 20000))),
    st.integers(0, 9000),
)
def test_cues_keep_every_word_in_order_and_their_limits(spec: list[tuple[str, int, int]], rest: int) -> None:
    words, at = [], 0
    for word, gap, length in spec:
        words.append(Word(word, at + gap, at + gap + length, 1.0))
        at += gap + length
    shown = cues(Transcript(tuple(words), at + rest))
    assert " ".join(line for cue in shown for line in cue.lines) == " ".join(w.word for w in words)
    assert all(len(cue.lines) <= CUE_LINES and len(line) <= LINE_CHARS for cue in shown for line in cue.lines)
    edges = [x for cue in shown for x in (cue.start_sample, cue.stop_sample)]
    assert edges == sorted(edges)
    assert not edges or edges[-1] <= at + rest


def test_txt_is_one_line() -> None:
    assert re.fullmatch(r"hello world\n", to_txt(TWO))
