"""A newcomer's sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from vivavoce.recipes.data import voices
from vivavoce.recipes.sample import MARGIN, main
from vivavoce.speech.errors import BadAudio, MissingDependency


@pytest.fixture
def espeak() -> None:
    try:
        voices.say("one", voices.Voice("espeak-ng", "en-us", 50, 50, 140, 0.5))
    except MissingDependency as e:
        pytest.skip(str(e))


@pytest.mark.usefixtures("espeak")
@pytest.mark.parametrize("ending", ["wav", "flac", "opus"])
def test_the_sentence_is_spoken_into_a_file_between_two_silences(tmp_path: Path, ending: str) -> None:
    assert main([str(tmp_path / f"s.{ending}"), "--text", "hello there"]) == 0
    pcm, rate = soundfile.read(tmp_path / f"s.{ending}", dtype="float32")
    edge = round(0.9 * MARGIN / voices.RATE * rate)
    assert abs(pcm[:edge]).max() < 0.02
    assert abs(pcm[-edge:]).max() < 0.02
    assert 0.3 < abs(pcm).max() <= 1
    assert 0.5 < len(pcm) / rate < 2.5


@pytest.mark.usefixtures("espeak")
def test_a_file_of_unknown_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadAudio, match=r"s\.xyz"):
        main([str(tmp_path / "s.xyz")])


def test_without_espeak_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    monkeypatch.setattr(voices, "_espeak", voices._Espeak)
    with pytest.raises(MissingDependency, match="apt install"):
        main([str(tmp_path / "s.wav")])
