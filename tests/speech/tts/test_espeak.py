"""espeak-ng's C library, and life without it."""

from __future__ import annotations

import pytest

from vivavoce.recipes.data import voices
from vivavoce.speech.tts import espeak
from vivavoce.speech.tts.ipa import from_ipa


def test_a_word_no_dictionary_has_is_said() -> None:
    assert from_ipa(espeak.ipa("vocoder")) == ("V", "OW1", "K", "OW0", "D", "ER0")
    assert espeak.ipa("") == ""


def test_it_and_the_synthetic_voices_share_one_library() -> None:
    voice = voices.Voice("espeak-ng", "en", 50, 50, 160, 0.5)
    before = voices.say_timed("hello world", voice)[1]
    assert espeak.ipa("tomato") == "təmˈeɪɾoʊ"  # American, whoever spoke last
    assert [name for _, name in voices.say_timed("hello world", voice)[1]] == [name for _, name in before]


def test_the_package_carries_one_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    path, data = espeak.files()
    assert "espeak" in path
    assert data


def test_without_any_a_word_has_no_ipa(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> tuple[str, None]:
        raise OSError("not found")

    monkeypatch.setattr(espeak, "files", nothing)
    monkeypatch.setattr(espeak, "opened", espeak.opened.__wrapped__)
    assert espeak.ipa("vocoder") == ""
