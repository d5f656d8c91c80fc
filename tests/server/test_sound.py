"""A client's bytes to 16 kHz and back, however they are cut."""

from __future__ import annotations

import numpy as np
import pytest

from vivavoce.server.settings import Format, Pcm, Pcma, Pcmu
from vivavoce.server.sound import Ear, Mouth, rate_of

FORMATS: list[Format] = [Pcm(), Pcm(rate=16000), Pcm(rate=48000), Pcmu(type="audio/pcmu"), Pcma(type="audio/pcma")]


def tone(rate: int, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("format", FORMATS)
def test_any_cut_of_the_bytes_gives_the_same_samples(format: Format) -> None:
    data = Mouth(format).push(tone(24000), last=True)
    whole = Ear(format)
    expected = np.concatenate([whole.push(data), whole.flush()])
    for size in (1, 3, 960):
        ear = Ear(format)
        pieces = [ear.push(data[i : i + size]) for i in range(0, len(data), size)]
        assert np.array_equal(np.concatenate([*pieces, ear.flush()]), expected)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_spoken_is_what_is_heard(format: Format) -> None:
    ear = Ear(format)
    heard = np.concatenate([ear.push(Mouth(format).push(tone(24000), last=True)), ear.flush()])
    assert len(heard) == 8000
    assert abs(heard[500:-500] - tone(16000)[500:-500]).max() < 0.02


def test_at_the_models_own_rate_nothing_is_changed() -> None:
    pcm = np.arange(-500, 500).astype("<i2")
    assert np.array_equal(Ear(Pcm(rate=16000)).push(pcm.tobytes()), pcm.astype(np.float32) / 32768)


def test_after_a_flush_a_stream_begins_afresh() -> None:
    ear = Ear(Pcm())
    first = np.concatenate([ear.push(bytes(96) + b"\x01"), ear.flush()])
    assert np.array_equal(first, np.concatenate([ear.push(bytes(96)), ear.flush()]))


def test_no_sample_wraps_around() -> None:
    loud = np.array([2.0, -2.0, np.nan, np.inf], np.float32)
    assert np.frombuffer(Mouth(Pcm()).push(loud), "<i2").tolist() == [32767, -32767, 0, 32767]


def test_rates() -> None:
    assert [rate_of(f) for f in FORMATS] == [24000, 16000, 48000, 8000, 8000]
