"""Synthetic voices: one sentence and one `Voice` in, 16 kHz float audio out, by espeak-ng or flite.

espeak-ng runs in this process through its C library, from the Debian package `libespeak-ng1` or the wheel
`espeakng-loader`; flite runs as its Debian program. `synthesize` draws the voices and writes what they say.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from vivavoce.speech.errors import BadAudio, MissingDependency
from vivavoce.speech.tts import espeak

RATE = 16000
Audio = npt.NDArray[np.float32]

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
# espeak-ng's voice variants that sound like people; left out: whisper, croak, the robots, announcers and jokes.
_NAMES = """
m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 adam Alex Alicia Andrea Andy Annie anika antonio aunty belinda benjamin boris
caleb david Denis Diogo ed edward edward2 Gene Gene2 grandma grandpa gustave Henrique Hugo iven iven2 iven3 Jacky john
klatt klatt2 klatt3 klatt4 Lee linda marcelo Marco max Michael michel miguel Mike Nguyen norbert pablo paul pedro quincy
rob robert sandro shelby steph steph2 steph3 travis victor zac
"""
VARIANTS = tuple(_NAMES.split())
FLITE = ("kal16", "awb", "rms", "slt")


@dataclass(frozen=True)
class Voice:
    """Who says it and how.

    `pitch` is 0..99 for espeak-ng and the mean in Hz for flite; `pitch_range` 0..99 (espeak-ng only); `rate` is words a
    minute; `level` is the peak of the audio, 0..1.
    """

    engine: str
    name: str
    pitch: int
    pitch_range: int
    rate: int
    level: float

    @property
    def speaker(self) -> str:
        return f"{self.engine}/{self.name}"


def draw(rng: np.random.Generator, flite_share: float) -> Voice:
    """A random voice: an accent and a variant of espeak-ng, or one of flite's four people."""
    rate, level = int(rng.integers(120, 221)), float(rng.uniform(0.2, 0.9))
    if rng.random() < flite_share:
        name = FLITE[int(rng.choice(4, p=(0.1, 0.3, 0.3, 0.3)))]  # kal is diphones, the others are recorded people
        base = 180 if name == "slt" else 110
        return Voice("flite", name, int(base * rng.uniform(0.85, 1.2)), 50, rate, level)
    accent = ACCENTS[int(rng.choice(8, p=(0.4, 0.15, 0.1, 0.07, 0.1, 0.06, 0.06, 0.06)))]
    variant = VARIANTS[int(rng.integers(len(VARIANTS)))]
    pitch, spread = int(rng.integers(25, 80)), int(rng.integers(20, 90))
    return Voice("espeak-ng", f"{accent}+{variant}", pitch, spread, rate, level)


class _Event(ctypes.Structure):
    """espeak_EVENT of its C header; for a phoneme, `name` is its mnemonic and `sample` where it begins."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_Events = ctypes.POINTER(_Event)
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, _Events)
_LIST_END, _PHONEME = 0, 7
_UTF8, _RATE, _VOLUME, _PITCH, _RANGE = 1, 1, 2, 3, 4


def _espeak_files() -> tuple[str, str | None]:
    """The C library and its data folder (None: the library knows)."""
    try:
        return espeak.files()
    except OSError:
        cure = "apt install espeak-ng, or pip install espeakng-loader"
        raise MissingDependency(f"the espeak-ng library was not found; {cure}") from None


class _Espeak:
    """espeak-ng's C library, one a process: it keeps its state in globals of its own."""

    def __init__(self) -> None:
        library, _ = _espeak_files()
        try:
            self.espeak, self.rate = espeak.opened()
        except OSError:
            raise MissingDependency(f"{library}: espeak-ng finds no voice data; apt install espeak-ng-data") from None
        self.chunks: list[npt.NDArray[np.int16]] = []
        self.phones: list[tuple[int, str]] = []
        self._callback = _Callback(self._collect)  # kept: C holds only a pointer
        self.espeak.espeak_SetSynthCallback(self._callback)

    def _collect(
        self, wave: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]
    ) -> int:
        if wave and count > 0:
            self.chunks.append(np.ctypeslib.as_array(wave, (count,)).astype(np.int16))
        i = 0
        while events and events[i].type != _LIST_END:
            if events[i].type == _PHONEME:
                self.phones.append((events[i].sample, events[i].name.decode("utf-8", "replace")))
            i += 1
        return 0

    def say(self, text: str, voice: Voice) -> npt.NDArray[np.int16]:
        self.chunks.clear()
        self.phones.clear()
        if self.espeak.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise MissingDependency(f"espeak-ng has no voice {voice.name!r}; install espeak-ng-data 1.51 or newer")
        for parameter, value in (
            (_RATE, voice.rate),
            (_VOLUME, 100),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        ):
            self.espeak.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self.espeak.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
        self.espeak.espeak_Synchronize()
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()


def _flite(text: str, voice: Voice) -> tuple[Audio, int]:
    program = shutil.which("flite")
    if program is None:
        raise MissingDependency("the program flite was not found; apt install flite")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.wav"
        stretch = f"duration_stretch={160 / voice.rate:.3f}"
        pitch = f"int_f0_target_mean={voice.pitch}"
        command = [program, "-voice", voice.name, "--setf", stretch, "--setf", pitch, "-t", text, "-o", str(out)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            raise BadAudio(f"{voice.speaker} failed on {text!r}; leave that sentence out")
        audio, rate = soundfile.read(out, dtype="float32")
    return audio, int(rate)


def say(text: str, voice: Voice) -> Audio:
    """Speak normalised text: (samples,) float32 at 16 kHz, silence at the ends trimmed to 50 ms.

    Raises:
        MissingDependency: the engine or its voice is not installed; names the package.
        BadAudio: the engine made no sound of this text.
    """
    if voice.engine == "flite":
        raw, rate = _flite(text, voice)
    else:
        engine = _espeak()
        raw, rate = engine.say(text, voice).astype(np.float32), engine.rate
    audio = soxr.resample(raw, rate, RATE).astype(np.float32)
    peak = float(np.abs(audio).max(initial=0.0))
    loud = np.flatnonzero(np.abs(audio) > 0.01 * peak)
    if peak == 0 or not len(loud):
        raise BadAudio(f"{voice.speaker} made no sound of {text!r}; leave that sentence out")
    margin = RATE // 20
    spoken: Audio = audio[max(0, loud[0] - margin) : loud[-1] + margin]
    return spoken * np.float32(voice.level / peak)


def say_timed(text: str, voice: Voice) -> tuple[Audio, list[tuple[int, str]]]:
    """Speak normalised text with espeak-ng: (samples,) float32 at 16 kHz, and where each phone begins.

    Phones are espeak-ng's mnemonics with their first sample; those that begin with `_` are pauses. Nothing is trimmed.

    Raises:
        MissingDependency: espeak-ng or its voice is not installed; names the package.
        BadAudio: it made no sound of this text, or the voice is not one of espeak-ng's.
    """
    if voice.engine != "espeak-ng":
        raise BadAudio(f"{voice.speaker} gives no phone times; draw an espeak-ng voice (flite_share=0)")
    engine = _espeak()
    audio = soxr.resample(engine.say(text, voice).astype(np.float32), engine.rate, RATE).astype(np.float32)
    peak = float(np.abs(audio).max(initial=0.0))
    if peak == 0:
        raise BadAudio(f"{voice.speaker} made no sound of {text!r}; leave that sentence out")
    return audio * np.float32(voice.level / peak), [(s * RATE // engine.rate, name) for s, name in engine.phones]
