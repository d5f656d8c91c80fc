"""Measuring a voice: a sound is no distance from itself, time is warped, and the table has a row for each way."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from small_voice import make_voice

from vivavoce.recipes.train.tts import measure
from vivavoce.speech.asr.score import score
from vivavoce.speech.tts import mel


def glide(seconds: float, start: float = 120.0, end: float = 200.0) -> torch.Tensor:
    hertz = torch.linspace(start, end, int(seconds * mel.RATE))
    phase = (2 * math.pi * hertz.double() / mel.RATE).cumsum(0)
    return sum((torch.cos(k * phase) / k for k in range(1, 10)), torch.zeros_like(phase)).float() * 0.1


def test_a_sound_is_no_distance_from_itself() -> None:
    figures = measure.compare(glide(1.0), glide(1.0))
    assert (figures.mcd, figures.pitch, figures.mel, figures.length) == (0.0, 0.0, 0.0, 1.0)


def test_speed_costs_less_than_another_pitch() -> None:
    real = glide(1.0)
    slower = measure.compare(glide(1.5), real)
    assert slower.length == pytest.approx(1.5)
    assert slower.pitch < 0.1
    higher = measure.compare(glide(1.0, 180.0, 180.0), glide(1.0, 150.0, 150.0))
    assert higher.pitch == pytest.approx(math.log(1.2), abs=0.01)


def test_a_path_goes_from_corner_to_corner_by_single_steps() -> None:
    a = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    b = torch.tensor([[0.0], [0.0], [1.0], [2.0], [3.0], [3.0]])
    path = measure.warp(a, b)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [3, 5]
    assert bool(((path.diff(dim=0) >= 0) & (path.diff(dim=0) <= 1)).all())
    assert float((a[path[:, 0]] - b[path[:, 1]]).abs().sum()) == 0


def test_the_table_has_a_row_for_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "hear", lambda pcm: "a cat")
    rows = measure.rows(make_voice(), [("a cat", glide(0.6))], [2, 1], tmp_path / "out")
    assert [row.name for row in rows] == [
        "recorded", "recorded, through the vocoder", "spoken, 2 steps", "spoken, 1 step"]
    lines = measure.table(rows)
    assert all(line.split("|")[2].strip() == "0.0" for line in lines[2:])
    assert len(list((tmp_path / "out").glob("*.wav"))) == 4
    measure.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_what_is_more_wrong_than_the_recording_is_told_sentence_by_sentence() -> None:
    scores = [score("abcdefghij", heard) for heard in ("abcdefghij", "abcdefghiX", "abcdefghXX")]
    assert measure.apart(scores, scores) == (0.0, 0.0)
    low, high = measure.apart(scores, [score("abcdefghij", "abcdefghij")] * 3)
    assert 0.0 <= low < 0.1 < high <= 0.2


def test_the_command_puts_table_and_plot_into_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "hear", lambda pcm: "a cat")
    monkeypatch.setattr(measure.Voice, "load", lambda source: make_voice())
    monkeypatch.setattr(measure.manifest, "load", lambda corpus, split: [])
    monkeypatch.setattr(measure, "rows", lambda *_: [row])
    row = measure.Row("spoken, 1 step", 1, 0.1, 0.2, -0.01, 0.02, measure.Figures(1.0, 0.1, 0.2, 1.0), 3.0)
    (tmp_path / "docs").mkdir()
    document = tmp_path / "docs" / "doc.md"
    document.write_text("a\n<!-- measure:begin -->\nold\n<!-- measure:end -->\nz\n")
    assert measure.main(["x", "--plot", str(tmp_path / "steps.png"), "--into", str(document)]) == 0
    assert "old" not in document.read_text()
    assert "| spoken, 1 step | 10.0 |" in document.read_text()
    assert "(../steps.png)" in document.read_text()


def test_text_becomes_sound_of_the_voice() -> None:
    one = measure.speak(make_voice(), "A cat.", steps=1)
    two = measure.speak(make_voice(), "A cat. A cat.", steps=1)
    assert len(one) % mel.HOP == 0
    assert len(two) == 2 * len(one) > 0
