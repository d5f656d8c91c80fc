"""Sound in every format, in pieces that a player can begin with before the rest is made."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hum import RATE, hum

from vivavoce.server.encode import CONTENT_TYPES, Encoder, pcm16
from vivavoce.speech.errors import BadAudio

SOUND = hum("a sentence that takes a while to be said" * 5)


def encoded(form: str, size: int = 2400) -> list[bytes]:
    encoder = Encoder(form, RATE)
    return [encoder.push(SOUND[i : i + size]) for i in range(0, len(SOUND), size)] + [encoder.finish()]


@pytest.mark.parametrize("form", ["wav", "mp3", "opus"])
def test_what_is_decoded_is_what_was_said(form: str) -> None:
    pcm, rate = soundfile.read(io.BytesIO(b"".join(encoded(form))), dtype="float32")
    assert rate == RATE
    assert abs(len(pcm) - len(SOUND)) < RATE // 10
    at = int(np.argmax(np.correlate(pcm[:9000], SOUND[:4800], "valid")))  # a codec's delay
    if form == "wav":
        assert np.abs(pcm - SOUND).max() < 1e-4
    else:
        assert np.corrcoef(pcm[at : at + 4800], SOUND[:4800])[0, 1] > 0.95


def test_flac_is_whole_though_its_length_is_not_in_its_head() -> None:
    data = bytearray(b"".join(encoded("flac")))
    data[21:26] = bytes([data[21] & 0xF0]) + len(SOUND).to_bytes(4, "big")  # what a player of files would want
    pcm, rate = soundfile.read(io.BytesIO(bytes(data)), dtype="float32")
    assert rate == RATE
    assert np.abs(pcm - SOUND).max() < 1e-4


def test_pcm_is_samples_and_nothing_else() -> None:
    assert b"".join(encoded("pcm", 777)) == pcm16(SOUND)


@pytest.mark.parametrize("form", CONTENT_TYPES)
def test_sound_leaves_while_more_is_made(form: str) -> None:
    parts = encoded(form)
    early = sum(map(len, parts[: len(parts) // 2]))
    assert early > 0.3 * sum(map(len, parts))
    assert sum(map(len, parts[:4])) > 100


def test_loud_samples_are_clipped_not_wrapped() -> None:
    assert np.frombuffer(pcm16(np.array([2.0, -2.0, 0.0], np.float32)), "<i2").tolist() == [32767, -32767, 0]


def test_nothing_said_is_still_a_file() -> None:
    encoder = Encoder("wav", RATE)
    assert len(encoder.finish()) == 44


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(BadAudio, match="wav, mp3, opus, flac, pcm"):
        Encoder("aac", RATE)
