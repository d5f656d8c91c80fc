"""espeak-ng's rules for words that no dictionary has: one English word in, its IPA out.

The C library comes from the system (Debian: libespeak-ng1) or with the package espeakng-loader. `pronounce` uses it,
and does without where there is none.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import threading

_RETRIEVAL, _PHONEME_EVENTS = 1, 1  # how recipes/data/voices.py opens it too: the library has one state a process
_UTF8, _IPA = 1, 2
_LOCK = threading.Lock()  # its state is global


class Espeak:
    """`ipa(word)` through the C library. Raises OSError where there is none that works."""

    def __init__(self) -> None:
        path, data = _files()
        self._library = ctypes.CDLL(path)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
        if self._library.espeak_Initialize(_RETRIEVAL, 0, data.encode() if data else None, _PHONEME_EVENTS) <= 0:
            raise OSError(f"{path}: finds no voice data")

    def ipa(self, word: str) -> str:
        """American English; empty for what it cannot say."""
        with _LOCK:
            self._library.espeak_SetVoiceByName(b"en-us")
            text = ctypes.c_char_p(word.encode())
            parts = []
            while text.value:  # it moves the pointer on, clause by clause, to null
                parts.append(self._library.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, _IPA) or b"")
        return b"".join(parts).decode("utf-8", "replace")


def _files() -> tuple[str, str | None]:
    """The library, and its data folder (None: it knows)."""
    if found := ctypes.util.find_library("espeak-ng"):
        return found, None
    try:
        import espeakng_loader
    except ImportError as e:
        raise OSError("espeak-ng was not found") from e
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


@functools.cache
def espeak() -> Espeak | None:
    """The one of this process; None where there is none."""
    try:
        return Espeak()
    except OSError:
        return None
