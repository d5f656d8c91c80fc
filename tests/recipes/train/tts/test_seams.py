"""No seams in the voice that ships; and a click, a step in loudness and a step in pitch would be found."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vivavoce.recipes.train.tts import seams
from vivavoce.recipes.train.tts.judge import sentences
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.voice import Voice

EVERY = 5


def sound(seed: int, *, hertz_step: float = 0.0, gain_step: float = 0.0, click: float = 0.0) -> Tensor:
    """Two seconds of a wandering voice; every other chunk is higher, louder, or begins with a click."""
    draw = torch.Generator().manual_seed(seed)
    chunk = torch.arange(2 * mel.RATE) // (EVERY * mel.HOP) % 2
    walk = torch.randn(100, generator=draw).cumsum(0).repeat_interleave(mel.HOP) * 0.8
    phase = (2 * math.pi * (150 + walk + hertz_step * chunk).double() / mel.RATE).cumsum(0)
    wave = sum((torch.cos(k * phase) / k for k in range(1, 10)), torch.zeros_like(phase)).float()
    loud = 1 + 0.15 * torch.randn(100, generator=draw).repeat_interleave(mel.HOP) + gain_step * chunk
    wave = 0.05 * wave * loud
    wave[EVERY * mel.HOP :: EVERY * mel.HOP] += click
    return wave


def rows(**faults: float) -> dict[str, seams.Row]:
    return {row.what: row for row in seams.compare([sound(seed, **faults) for seed in range(8)], EVERY)}


def test_sound_without_seams_has_none() -> None:
    assert all(row.low <= 1 for row in rows().values())


@pytest.mark.parametrize(("fault", "size", "what"), [("hertz_step", 15.0, "ΔF0, Hz"), ("gain_step", 0.8, "ΔE, dB"),
                                                     ("click", 0.1, "sample jump")])
def test_a_seam_is_found(fault: str, size: float, what: str) -> None:
    assert rows(**{fault: size})[what].low > 1


def test_nobody_can_tell_where_the_chunks_of_the_shipped_voice_end() -> None:
    voice = Voice.load("lj-en")
    texts = [s.text for s in sentences(6) if s.set == "everyday"]
    pieces = seams.spoken(voice, texts, chunks=1, steps=1)
    found = seams.compare(pieces, voice.config.flow.chunk)
    assert sum(map(len, pieces)) > 10 * mel.RATE
    for row in found:
        assert row.low <= 1, row  # no larger than at other places, at 95 per cent
        assert row.ratio < 1.25, row


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(seams, "speak", lambda voice, text, steps, lookahead: sound(len(text)))
    assert seams.main(["--limit", "1", "--chunks", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 sentences, 4 s, a seam every 200 ms" in out
    assert out.count("| ") > 9
