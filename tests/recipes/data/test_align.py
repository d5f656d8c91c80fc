"""Phones are found where espeak-ng says it said them, and kept for the recordings they belong to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vivavoce.recipes.data import align, manifest
from vivavoce.recipes.data.align import HOP, PhoneAligner, Phones, main
from vivavoce.recipes.data.batches import RATE
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.voices import Voice, _espeak_files, say_timed
from vivavoce.speech.errors import BadConfig, MissingDependency

TEXT = "the dog ran home"
WORDS = [["DH", "AH0"], ["D", "AO1", "G"], ["R", "AE1", "N"], ["HH", "OW1", "M"]]


@pytest.fixture(scope="module")
def spoken() -> tuple[np.ndarray, list[tuple[int, str]]]:
    pytest.importorskip("pocketsphinx", reason="the aligner is pocketsphinx")
    try:
        _espeak_files()
    except MissingDependency as e:
        pytest.skip(str(e))
    return say_timed(TEXT, Voice("espeak-ng", "en-us", 50, 50, 150, 0.5))


def test_phones_lie_where_they_were_said(spoken: tuple[np.ndarray, list[tuple[int, str]]]) -> None:
    pcm, said = spoken
    found = next(PhoneAligner().attempts(WORDS, pcm))
    named = [s for s in found if s.phone != "SIL"]
    assert [s.phone for s in named] == [p.rstrip("012") for word in WORDS for p in word]
    true = {name: sample for sample, name in said}
    for phone, espeak in (("G", "g"), ("N", "n"), ("M", "m")):
        assert abs(next(s.start for s in named if s.phone == phone) * HOP - true[espeak]) < 0.06 * RATE


def test_words_that_cannot_fit_are_not_found(spoken: tuple[np.ndarray, list[tuple[int, str]]]) -> None:
    assert not list(PhoneAligner().attempts(WORDS * 20, spoken[0][:4800]))


def test_a_corpus_is_aligned_once_and_a_new_transcript_again(
    spoken: tuple[np.ndarray, list[tuple[int, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = tmp_path / "speech" / "one"
    corpus.mkdir(parents=True)
    soundfile.write(corpus / "a.wav", spoken[0], RATE)
    rows = [Utterance(corpus / "a.wav", len(spoken[0]) / RATE, RATE, "s", "train", TEXT)]
    manifest.write(corpus / manifest.NAME, rows)
    out = tmp_path / "new" / "phones.json"
    words = ["--speech-dir", str(tmp_path / "speech"), "--out", str(out), "--jobs", "1"]
    assert main(words) == 0
    timed = Phones(out, tmp_path / "speech").of(rows[0])
    assert timed is not None
    assert [p for _, p in timed if p != "SIL"] == [p.rstrip("012") for word in WORDS for p in word]
    assert Phones(out, tmp_path / "speech").of(dataclasses.replace(rows[0], text="a cat")) is None
    before = out.stat().st_mtime_ns
    monkeypatch.setattr(align, "align", lambda share: pytest.fail("aligned what was aligned already"))
    assert main(words) == 0
    assert json.loads(out.read_text())["one/a.wav"][0] == TEXT
    assert out.stat().st_mtime_ns == before


def test_a_file_that_holds_no_phones_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]"):
        (tmp_path / "phones.json").write_text(text)
        with pytest.raises(BadConfig, match=r"phones\.json: no phones there"):
            Phones(tmp_path / "phones.json", tmp_path)
    assert main(["--speech-dir", str(tmp_path), "--out", str(tmp_path / "phones.json")]) == 1
