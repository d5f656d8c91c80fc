"""Synthetic voices: they speak, rate and voice matter, and what is missing is named."""

from __future__ import annotations

import ctypes.util
import shutil
import sys

import numpy as np
import pytest

from vivavoce.recipes.data import voices
from vivavoce.recipes.data.voices import RATE, Voice, draw, say
from vivavoce.speech.errors import BadAudio, MissingDependency

SENTENCE = "she looked at him with some surprise"


def _espeak(name: str, rate: int = 160, level: float = 0.5) -> Voice:
    if ctypes.util.find_library("espeak-ng") is None and "espeakng_loader" not in sys.modules:
        pytest.importorskip("espeakng_loader", reason="espeak-ng is not installed (Debian: apt install espeak-ng)")
    return Voice("espeak-ng", name, 50, 50, rate, level)


def _flite(name: str, rate: int = 160) -> Voice:
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed (Debian: apt install flite)")
    return Voice("flite", name, 120, 50, rate, 0.5)


@pytest.mark.parametrize("accent", voices.ACCENTS)
def test_every_accent_speaks_at_the_level_asked(accent: str) -> None:
    audio = say(SENTENCE, _espeak(f"{accent}+f2"))
    assert 1.5 < len(audio) / RATE < 4
    assert audio.dtype == np.float32
    assert float(np.abs(audio).max()) == pytest.approx(0.5, abs=1e-3)


def test_every_variant_exists_and_sounds_unlike_the_plain_voice() -> None:
    plain = say("hello", _espeak("en-us"))
    for variant in voices.VARIANTS:
        audio = say("hello", _espeak(f"en-us+{variant}"))
        assert len(audio) != len(plain) or np.abs(audio - plain).max() > 0.01, variant


@pytest.mark.parametrize("name", voices.FLITE)
def test_every_flite_voice_speaks(name: str) -> None:
    assert 1.0 < len(say(SENTENCE, _flite(name))) / RATE < 5


def test_a_higher_rate_is_shorter_in_both_engines() -> None:
    for voice in (_espeak, _flite):
        name = "en-us" if voice is _espeak else "slt"
        slow, fast = (len(say(SENTENCE, voice(name, rate))) for rate in (120, 220))
        assert fast < 0.75 * slow


def test_what_cannot_be_said_or_does_not_exist_is_named() -> None:
    with pytest.raises(BadAudio, match="made no sound of ''"):
        say("", _espeak("en-us"))
    with pytest.raises(MissingDependency, match="no voice 'xx-klingon'"):
        say("hello", _espeak("xx-klingon"))


def test_a_missing_engine_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingDependency, match="apt install flite"):
        say("hello", Voice("flite", "slt", 120, 50, 160, 0.5))
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingDependency, match=r"apt install espeak-ng.*pip install espeakng-loader"):
        voices._espeak_files()


def test_drawn_voices_repeat_by_seed_and_flite_has_its_share() -> None:
    drawn = [draw(np.random.default_rng((1, i)), 0.3) for i in range(1000)]
    assert drawn == [draw(np.random.default_rng((1, i)), 0.3) for i in range(1000)]
    assert 0.25 < sum(v.engine == "flite" for v in drawn) / 1000 < 0.35
    assert len({v.speaker for v in drawn}) > 250
    assert all(120 <= v.rate <= 220 and 0 < v.level < 1 for v in drawn)
