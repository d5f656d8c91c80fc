"""Words to phones: the dictionary, what is built on it, the rules, and words that depend on their neighbours."""

from __future__ import annotations

import pytest

from vivavoce.speech.tts import pronounce as module
from vivavoce.speech.tts.phones import encode
from vivavoce.speech.tts.pronounce import dictionary, look_up, pronounce, ways_to_say, with_ending


def said(text: str) -> str:
    return " | ".join(" ".join(phones) for phones in pronounce(text.split()))


def test_every_word_of_the_dictionary_is_made_of_known_phones() -> None:
    assert len(dictionary()) > 100_000
    encode({phone for phones in dictionary().values() for phone in phones.split()})
    assert look_up("hello") == ("HH", "AH0", "L", "OW1")


@pytest.mark.parametrize(("word", "ending"), [("parrot's", "S"), ("nebula's", "Z"), ("walrus's", "IH0 Z"),
                                              ("remotes", "S"), ("rhino's", "Z"), ("pr's", "Z")])  # fmt: skip
def test_possessives_and_plurals_are_built_on_words_that_are_known(word: str, ending: str) -> None:
    stem = word.removesuffix("'s") if "'" in word else word.removesuffix("s")
    assert word not in dictionary()
    assert look_up(word) == (*look_up(stem), *ending.split())


@pytest.mark.parametrize(("word", "endings"), [
    ("viva", "s Z, d D, ll L, ve V, re ER0"), ("bob", "s Z, d AH0 D, ll AH0 L, ve AH0 V, re ER0"),
    ("kate", "s S, d AH0 D"), ("bus", "s IH0 Z"),
])  # fmt: skip
def test_endings_go_behind_any_phones(word: str, endings: str) -> None:
    for ending in endings.split(", "):
        letters, *phones = ending.split()
        assert with_ending(look_up(word), letters) == (*look_up(word), *phones)


def test_what_no_dictionary_has_is_said_by_rule() -> None:
    assert look_up("vocoder") == ("V", "OW1", "K", "OW0", "D", "ER0")
    assert look_up("qzx")


def test_without_espeak_the_letters_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ipa", lambda word: "")
    assert look_up.__wrapped__("vocoder") == module.guess("vocoder")


def test_a_word_has_all_the_ways_of_the_dictionary_or_one_that_needs_no_espeak(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ipa", None)
    assert ways_to_say("the") == (("DH", "AH0"), ("DH", "AH1"), ("DH", "IY0"))
    assert ways_to_say("parrot's") == ((*look_up("parrot"), "S"),)
    assert ways_to_say("vocoder") == (module.guess("vocoder"),)
    assert ways_to_say("-") == ()


@pytest.mark.parametrize(("text", "phones"), [
    ("the end", "DH IY0 | EH1 N D"), ("the hour", "DH IY0 | AW1 ER0"), ("the use", "DH AH0 | Y UW1 S"),
    ("to use", "T UW1 | Y UW1 Z"), ("read it", "R IY1 D | IH1 T"), ("has read", "HH AE1 Z | R EH1 D"),
    ("they live", "DH EY1 | L IH1 V"), ("the record", "DH AH0 | R EH1 K ER0 D"),
    ("to record", "T UW1 | R IH0 K AO1 R D"), ("the wind", "DH AH0 | W IH1 N D"),
])  # fmt: skip
def test_neighbours_decide_between_two_ways_of_saying(text: str, phones: str) -> None:
    assert said(text) == phones


def test_every_two_ways_are_made_of_known_phones() -> None:
    for ways in module._TWOFOLD.values():
        assert len(ways) == 4
        for way in ways:
            encode(way.split())


def test_a_letter_is_said_by_its_name() -> None:
    assert pronounce(["vitamin", "a"], [False, True])[1] == ("EY1",)
    assert pronounce(["a", "vitamin"], [False, False])[0] == ("AH0",)
