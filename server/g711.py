"""G.711, the telephone's eight bits a sample at 8 kHz: mu-law and A-law to linear samples and back (ITU-T G.711, 1988).

The tables are computed from the Recommendation's rule: a sign, three bits of segment, four bits within it. Encoding
takes the nearest value there is, the smaller of two equally near.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pcm16 = NDArray[np.int16]


def _mulaw() -> Pcm16:
    """What each byte of mu-law stands for, 14 bits scaled to 16. Bytes travel with all bits inverted."""
    code = ~np.arange(256, dtype=np.uint8)
    segment, step = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    size = ((2 * step + 33) << segment) - 33
    return (4 * np.where(code & 0x80, -size, size)).astype(np.int16)


def _alaw() -> Pcm16:
    """What each byte of A-law stands for, 13 bits scaled to 16. Bytes travel with every other bit inverted."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    segment, step = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    size = np.where(segment > 0, (2 * step + 33) << np.maximum(segment - 1, 0), 2 * step + 1)
    return (8 * np.where(code & 0x80, size, -size)).astype(np.int16)


class Law:
    """One of the two. decode: bytes -> (n,) int16; encode: (n,) int16 -> bytes."""

    def __init__(self, table: Pcm16) -> None:
        self._table = table
        order = np.argsort(table, kind="stable").astype(np.uint8)
        values = table[order].astype(np.int32)
        middles = (values[1:] + values[:-1]) / 2
        samples = np.arange(-32768, 32768)
        positive = np.searchsorted(middles, samples, side="left")  # the smaller of two equally near
        negative = np.searchsorted(middles, samples, side="right")
        self._codes = order[np.where(samples < 0, negative, positive)]

    def decode(self, data: bytes) -> Pcm16:
        return self._table[np.frombuffer(data, np.uint8)]

    def encode(self, pcm: Pcm16) -> bytes:
        return bytes(self._codes[pcm.astype(np.int32) + 32768])


MULAW = Law(_mulaw())
ALAW = Law(_alaw())
