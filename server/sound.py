"""A client's audio at the edge: bytes in its format to 16 kHz PCM (`Ear`), 24 kHz PCM to bytes in its format (`Mouth`).

Bytes may be cut anywhere, within a sample too. Rates are converted by soxr as for files, so that any cut of the same
bytes gives the same samples, those a file with the same contents gives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivavoce.speech.audio import RateConverter

from .g711 import ALAW, MULAW, Law
from .settings import Format, Pcm
from .signals import HEARING_RATE, SPEAKING_RATE

_LAWS: dict[str, Law] = {"audio/pcmu": MULAW, "audio/pcma": ALAW}
_NOTHING = np.zeros(0, np.float32)


def rate_of(format: Format) -> int:
    return format.rate if isinstance(format, Pcm) else 8000


class Ear:
    """What one client sends, until its format changes."""

    def __init__(self, format: Format) -> None:
        self.format = format
        self._begin()

    def _begin(self) -> None:
        self._half = b""
        self._convert = RateConverter(rate_of(self.format), HEARING_RATE)

    def push(self, data: bytes) -> NDArray[np.float32]:
        """(n,) float32 in [-1, 1] at 16 kHz: what is certain now."""
        return _clipped(self._convert.push(self._samples(data).astype(np.float32) / np.float32(32768)))

    def flush(self) -> NDArray[np.float32]:
        """What the rate converter held back; what comes next begins afresh."""
        rest = self._convert.push(_NOTHING, last=True)
        self._begin()
        return _clipped(rest)

    def _samples(self, data: bytes) -> NDArray[np.int16]:
        if law := _LAWS.get(self.format.type):
            return law.decode(data)
        data = self._half + data
        whole = len(data) & ~1
        self._half = data[whole:]
        return np.frombuffer(data[:whole], "<i2")


class Mouth:
    """What one client is sent of one speech."""

    def __init__(self, format: Format) -> None:
        self.format = format
        self._convert = RateConverter(SPEAKING_RATE, rate_of(format))

    def push(self, pcm: NDArray[np.float32], last: bool = False) -> bytes:
        """(n,) float32 at 24 kHz to bytes; `last` lets out what the rate converter held back."""
        out = self._convert.push(np.asarray(pcm, np.float32), last=last)
        samples = np.rint(np.clip(np.nan_to_num(out), -1, 1) * 32767).astype("<i2")
        law = _LAWS.get(self.format.type)
        return law.encode(samples) if law else samples.tobytes()


def _clipped(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    out: NDArray[np.float32] = np.clip(pcm, -1, 1)
    return out
