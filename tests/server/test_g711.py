"""G.711 against the Recommendation's own values, and against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from vivavoce.server.g711 import ALAW, MULAW, Law

ALL = np.arange(-32768, 32768).astype(np.int16)


def test_known_bytes() -> None:
    assert MULAW.decode(bytes([0x00, 0x7F, 0x80, 0xFF, 0x8F])).tolist() == [-32124, 0, 32124, 0, 16764]
    assert ALAW.decode(bytes([0x2A, 0xAA, 0x55, 0xD5, 0x00])).tolist() == [-32256, 32256, -8, 8, -5504]


@pytest.mark.parametrize("law", [MULAW, ALAW])
def test_every_sample_gets_the_nearest_value_there_is(law: Law) -> None:
    values = np.sort(law.decode(bytes(range(256))).astype(np.int32))
    at = np.searchsorted(values, ALL).clip(1, 255)
    nearest = np.minimum(abs(values[at] - ALL), abs(values[at - 1] - ALL))
    assert (abs(law.decode(law.encode(ALL)).astype(np.int32) - ALL) == nearest).all()


@pytest.mark.parametrize("law", [MULAW, ALAW])
def test_what_was_decoded_is_encoded_to_the_same(law: Law) -> None:
    pcm = law.decode(bytes(range(256)))
    assert (law.decode(law.encode(pcm)) == pcm).all()


@pytest.mark.parametrize("law", [MULAW, ALAW])
def test_sound_stays_38_db_above_the_noise_of_coding(law: Law) -> None:
    sine = (16000 * np.sin(np.arange(8000) * 0.3)).astype(np.int16)
    noise = law.decode(law.encode(sine)).astype(np.float64) - sine
    assert 10 * np.log10((sine.astype(np.float64) ** 2).mean() / (noise**2).mean()) > 37
