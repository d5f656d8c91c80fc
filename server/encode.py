"""Audio on its way out of the server: PCM in pieces to wav, mp3, opus, flac or raw PCM, as bytes that can be sent at
once.

Pieces come from the speaking room, bytes go into an HTTP response whose length nobody knows yet; what a format would
write into its header at the end (lengths, checksums, seek tables) stays as players of streams expect it.
"""

from __future__ import annotations

import struct
from typing import IO, Any, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from vivavoce.speech.errors import BadAudio

Pcm = NDArray[np.float32]

CONTENT_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg; codecs=opus",
    "flac": "audio/flac",
    "pcm": "audio/pcm",
}
_LIBRARY = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16")}
PAGE_MS = 60.0
SET_OGG_PAGE_LATENCY_MS = 0x1302  # sndfile.h
_FOREVER = 0xFFFFFFFF  # a wav's length when it is not known


class Encoder:
    """One response. `push` gives the bytes that are ready, `finish` the rest."""

    def __init__(self, form: str, rate: int) -> None:
        """Raises BadAudio for a format that is not offered."""
        if form not in CONTENT_TYPES:
            raise BadAudio(f"response_format {form!r} is not offered; choose one of {', '.join(CONTENT_TYPES)}")
        self.form, self.rate = form, rate
        self._head = _wav_header(rate) if form == "wav" else b""
        self._out = _Outlet()
        self._file: Any = None
        if form in _LIBRARY:
            container, subtype = _LIBRARY[form]
            constant = {"compression_level": 0.5, "bitrate_mode": "CONSTANT"} if form == "mp3" else {}  # 80 kbit/s
            self._file = soundfile.SoundFile(cast(IO[bytes], self._out), "w", rate, 1, subtype, format=container,
                                             **constant)  # fmt: skip
            if form == "opus":
                _send_pages_early(self._file)

    def push(self, pcm: Pcm) -> bytes:
        """pcm: (n,) float32 in [-1, 1]."""
        if self._file is not None:
            self._file.write(pcm)
            return self._out.drain()
        head, self._head = self._head, b""
        return head + pcm16(pcm)

    def finish(self) -> bytes:
        if self._file is not None:
            self._file.close()
            return self._out.drain()
        head, self._head = self._head, b""
        return head


def pcm16(pcm: Pcm) -> bytes:
    """(n,) float in [-1, 1] as 16-bit little-endian."""
    return np.round(np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()


def _wav_header(rate: int) -> bytes:
    """Mono, 16 bit, of unknown length."""
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    return b"".join([b"RIFF", struct.pack("<I", _FOREVER), b"WAVEfmt ", struct.pack("<I", len(form)), form,
                     b"data", struct.pack("<I", _FOREVER)])  # fmt: skip


def _send_pages_early(file: Any) -> None:
    """libsndfile holds Ogg pages for a second of sound unless told otherwise, which soundfile has no word for."""
    milliseconds = soundfile._ffi.new("double *", PAGE_MS)
    soundfile._snd.sf_command(file._file, SET_OGG_PAGE_LATENCY_MS, milliseconds, 8)


class _Outlet:
    """A file that libsndfile writes and that has already left: what comes at its end goes out, what would change its
    beginning is dropped."""

    def __init__(self) -> None:
        self._at, self._length, self._waiting = 0, 0, bytearray()

    def write(self, data: Any) -> int:
        block = bytes(data)
        sent = self._length - len(self._waiting)
        new = max(0, sent - self._at)  # bytes of the block that have already been sent in another version
        place = self._at + new - sent
        self._waiting[place : place + len(block) - new] = block[new:]
        self._at += len(block)
        self._length = max(self._length, self._at)
        return len(block)

    def drain(self) -> bytes:
        out = bytes(self._waiting)
        self._waiting.clear()
        return out

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        return b""

    def flush(self) -> None:
        """Everything is sent as it comes."""
