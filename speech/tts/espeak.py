"""espeak-ng's C library, opened once a process, and its rules for words that no dictionary has.

It comes from the system (Debian: libespeak-ng1) or with the package espeakng-loader. `pronounce` asks it for the IPA of
single words and does without where there is none; `recipes/data/voices.py` makes training speech with it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import threading

_RETRIEVAL, _PHONEME_EVENTS = 1, 1
_UTF8, _IPA = 1, 2
_LOCK = threading.Lock()  # its state is global


def files() -> tuple[str, str | None]:
    """The library, and its data folder (None: it knows). Raises OSError where there is none."""
    if found := ctypes.util.find_library("espeak-ng"):
        return found, None
    try:
        import espeakng_loader
    except ImportError as e:
        raise OSError("espeak-ng was not found") from e
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


@functools.cache
def opened() -> tuple[ctypes.CDLL, int]:
    """The library, ready, and its sample rate in Hz; once a process, for it waits for ever when it is opened twice.
    Raises OSError where there is none that works."""
    path, data = files()
    espeak = ctypes.CDLL(path)
    rate = int(espeak.espeak_Initialize(_RETRIEVAL, 0, data.encode() if data else None, _PHONEME_EVENTS))
    if rate <= 0:
        raise OSError(f"{path}: finds no voice data")
    espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
    espeak.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    return espeak, rate


def ipa(word: str) -> str:
    """How American English says it; empty for what it cannot say, and where there is no espeak-ng."""
    try:
        espeak, _ = opened()
    except OSError:
        return ""
    with _LOCK:
        espeak.espeak_SetVoiceByName(b"en-us")
        text = ctypes.c_char_p(word.encode())
        parts = []
        while text.value:  # it moves the pointer on, clause by clause, to null
            parts.append(espeak.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, _IPA) or b"")
    return b"".join(parts).decode("utf-8", "replace")
