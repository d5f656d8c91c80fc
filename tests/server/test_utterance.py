"""An utterance's text is its final words."""

from __future__ import annotations

from vivavoce.server.utterance import Utterance
from vivavoce.speech.asr.words import Word


def test_only_final_words_are_its_text() -> None:
    utterance = Utterance("item", 1, 0, 0, manual=False, tail="thr")
    assert utterance.text == ""
    utterance.words += [Word("one", 0, 1, 1.0), Word("two", 1, 2, 1.0)]
    assert utterance.text == "one two"


def test_two_utterances_alike_are_two() -> None:
    assert Utterance("item", 1, 0, 0, manual=True) != Utterance("item", 1, 0, 0, manual=True)
