"""Transcripts become clauses, and sound said by a synthesizer is found phone by phone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soxr
import torch

from vivavoce.recipes.data.voices import Voice, say_timed
from vivavoce.recipes.train.tts.align import Aligned, Aligner, align_all, clauses, known
from vivavoce.recipes.train.tts.data import Recording
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.phones import decode


@pytest.mark.parametrize(("text", "said"), [
    ("Well, he isn't", [("well", ","), ("he isn't", ".")]),
    ("Is it (or not)?", [("is it", ","), ("or not", "?")]),
    ('"Stop!" he said; then -- nothing.', [("stop", "!"), ("he said", ";"), ("then", ";"), ("nothing", ".")]),
    ("in the year 1821, Mr. Hunt", [("in the year eighteen twenty one", ","), ("mister hunt", ".")]),
    ("", []),
    ("...", []),
])
def test_marks_divide_a_transcript(text: str, said: list[tuple[str, str]]) -> None:
    if "Mr." in text:  # the mark after an abbreviation is none: the words are then kept together
        assert [w for c in clauses(text) for w in c.words][-2:] == ["mister", "hunt"]
    else:
        assert [(" ".join(c.words), c.end) for c in clauses(text)] == said


@pytest.fixture(scope="module")
def spoken() -> tuple[torch.Tensor, list[tuple[int, str]]]:
    """A sentence by espeak-ng at 24 kHz, and where its phones begin, in samples at 16 kHz."""
    pcm, phones = say_timed("the dog ran home, and the cat sat down", Voice("espeak-ng", "en-us", 50, 50, 150, 0.5))
    return torch.from_numpy(soxr.resample(pcm, 16_000, mel.RATE)), phones


def test_phones_are_found_where_they_are_said(spoken: tuple[torch.Tensor, list[tuple[int, str]]]) -> None:
    pcm, phones = spoken
    found = Aligner().align(pcm, "The dog ran home, and the cat sat down")
    assert found is not None
    symbols = decode(found.phones)
    said = " ".join(s for s in symbols if s.isalnum())
    assert said.startswith("DH AH0 D AO1 G R AE1 N HH OW1 M AH0 N D")
    assert sum(found.durations) == len(pcm) // mel.HOP
    assert all(d > 0 for s, d in zip(symbols, found.durations, strict=True) if s[0].isalpha())
    comma = symbols.index(",")
    at = sum(found.durations[:comma]) * mel.HOP / mel.RATE
    pauses = [sample / 16_000 for sample, name in phones if name.startswith("_")]
    assert min(abs(at - p) for p in pauses) < 0.12


def test_sound_that_is_not_the_text_is_refused_or_at_least_whole(
    spoken: tuple[torch.Tensor, list[tuple[int, str]]],
) -> None:
    aligner = Aligner()
    assert aligner.align(spoken[0], "") is None
    assert aligner.align(spoken[0][:4800], "entirely different words that nobody says in so short a time") is None


def test_what_was_aligned_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording("a.wav", "S", "train", "a cat", torch.zeros(9600, dtype=torch.int16), torch.zeros(20, 82))
    cache = tmp_path / "cache" / "one.json"
    monkeypatch.setattr(Aligner, "__init__", lambda self: None)
    monkeypatch.setattr(Aligner, "align", lambda self, pcm, text: Aligned([3, 4], [12, 8]))
    assert align_all([recording], cache) == [Aligned([3, 4], [12, 8])]
    assert json.loads(cache.read_text())["a.wav"]["text"] == "a cat"
    assert known(cache.parent, ["one", "two"]) == [Aligned([3, 4], [12, 8])]
    monkeypatch.setattr(Aligner, "align", lambda self, pcm, text: None)
    assert align_all([recording], cache) == [Aligned([3, 4], [12, 8])]
