"""Phrases as a voice reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech.text import normalize
from vivavoce.speech.tts.phones import PHONES, SEPARATORS, encode
from vivavoce.speech.tts.phrases import Phrase, Placed
from vivavoce.speech.tts.script import Script, read, script
from vivavoce.speech.tts.ssml import Written


def said(text: str) -> list[tuple[str, str]]:
    made = read(text)
    return [(word.text, " ".join(made.symbols[word.first : word.end])) for word in made.words]


def laid_out(made: Script) -> bool:
    """Whether every word is phones with one separator after it, as phones.py promises."""
    previous = SEPARATORS[0]
    for symbol in made.symbols:
        if symbol in SEPARATORS and previous in SEPARATORS:
            return False
        previous = symbol
    return not made.symbols or previous in SEPARATORS


def test_words_are_phones_with_a_separator_after_each() -> None:
    made = read("Well, he isn't.")
    assert " ".join(made.symbols) == "W EH1 L , HH IY1   IH1 Z AH0 N T ."
    assert [(word.text, word.first, word.end) for word in made.words] == [
        ("Well,", 0, 3), ("he", 4, 6), ("isn't.", 7, 12),
    ]  # fmt: skip
    assert (made.begin, made.end) == (0, len(made.symbols))


def test_a_recording_that_runs_on_ends_with_what_is_written() -> None:
    assert [read(text).symbols[-1] for text in ("so", "so,", "so?", "so.")] == [" ", ",", "?", "."]
    assert read("").symbols == ()


@pytest.mark.parametrize(("text", "groups"), [
    ("on Jan 5, it", ["on", "Jan 5,", "it"]),
    ("on May 2nd, 1999, it", ["on", "May", "2nd,", "1999,", "it"]),
    ("pay $5 million to", ["pay", "$5 million", "to"]),
    ("at 5 p.m. sharp", ["at", "5", "p.m.", "sharp"]),
    ("see St. James today", ["see", "St. James", "today"]),
    ("😀 so — this ☺ is", ["so", "this", "is"]),
])  # fmt: skip
def test_written_words_that_are_only_read_right_together_are_one(text: str, groups: list[str]) -> None:
    assert [word for word, _ in said(text)] == groups


@pytest.mark.parametrize(("text", "phones"), [
    ("a GPT stick", "JH IY1   P IY1   T IY1"), ("the NASA men", "N AE1 S AH0"), ("the US army", "Y UW1   EH1 S"),
    ("vitamin A is", "EY1"), ("at a time", "AH0"), ("in 5 a.m. sun", "F AY1 V"), ("plan B too", "B IY1"),
])  # fmt: skip
def test_capitals_that_are_no_word_are_spelled(text: str, phones: str) -> None:
    assert said(text)[1][1] == phones


@pytest.mark.parametrize(("text", "phones"), [
    ("Two TVs.", "T IY1   V IY1 Z"), ("two GPUs.", "JH IY1   P IY1   Y UW1 Z"), ("two VMs", "V IY1   EH1 M Z"),
    ("old LLMs", "EH1 L   EH1 L   EH1 M Z"), ("two OSs", "OW1   EH1 S IH0 Z"), ("two AIs", "EY1   AY1 Z"),
    ("two FAQs", "EH1 F   EY1   K Y UW1 Z"), ("two PRs", "P IY1 AA1 R Z"), ("two USBs", "Y UW1 EH1 S B IY1 Z"),
    ("the TV's", "T IY1   V IY1 Z"), ("the NASAs", "N AE1 S AH0 Z"),
])  # fmt: skip
def test_the_plural_of_an_abbreviation_is_its_last_letter_s(text: str, phones: str) -> None:
    assert said(text)[1][1] == phones


def test_a_letter_among_letters_is_no_article() -> None:
    assert said("A dog")[0][1] == "AH0"
    assert said("5 a.m.")[1][1] == "EY1   EH1 M"
    assert said("A USB one")[0][1] == "AH0"


def test_shouting_is_not_spelled() -> None:
    assert "   " not in said("STOP THAT GWAK NOISE RIGHT NOW")[2][1]
    assert "   " in said("Stop that GWAK noise right now")[2][1]


@pytest.mark.parametrize("text", [
    "STOP IT!", "HELP US!", "I AM HERE.", "WHO AM I", "PLEASE DO NOT GIVE IT TO US", "IT'S MINE", "NO, I DIDN'T",
    "and then she yelled HELP US!", "just STOP IT, PLEASE, he said", "I DIDN'T say so", "so GIVE IT TO US NOW",
])  # fmt: skip
def test_words_among_capitals_are_words(text: str) -> None:
    assert [phones for _, phones in said(text)] == [phones for _, phones in said(text.lower())]


@pytest.mark.parametrize(("text", "word"), [
    ("IT", "AY1   T IY1"), ("US GDP rose", "Y UW1   EH1 S"), ("US, UK", "Y UW1   EH1 S"), ("IT is", "AY1   T IY1"),
    ("AM and FM", "EY1   EH1 M"), ("ID, PLEASE", "AY1   D IY1"),
])  # fmt: skip
def test_abbreviations_that_are_words_too_are_spelled_elsewhere(text: str, word: str) -> None:
    assert said(text)[0][1] == word
    assert " ".join(read("WAKE ME AT 5 AM").symbols).endswith("F AY1 V   EY1   EH1 M  ")


def test_a_phrase_in_capitals_is_known_by_its_context() -> None:
    before, words = (tuple(Placed(Written(word)) for word in text.split()) for text in ("COME AND HELP", "US"))
    assert "AH1 S" in " ".join(script(Phrase(words, before)).symbols)
    assert "Y UW1   EH1 S" in " ".join(script(Phrase(words)).symbols)


def test_what_is_given_is_said() -> None:
    assert said("[Viva|V IY1 V AH0]!") == [("Viva!", "V IY1 V AH0")]
    assert said("<speak><sub alias='Dr. Who?'>X</sub> <say-as interpret-as='characters'>a1</say-as></speak>") == [
        ("X", "D AA1 K T ER0   HH UW1"), ("a1", "EY1   W AH1 N"),
    ]  # fmt: skip


def test_context_is_planned_along_but_belongs_to_others() -> None:
    before, words, after = ((Placed(Written(word)),) for word in ("the", "old", "end"))
    made = script(Phrase(words, before, after))
    assert " ".join(made.symbols) == "DH IY0   OW1 L D   EH1 N D  "
    assert [(word.text, word.first, word.end) for word in made.words] == [("old", 3, 6)]
    assert (made.begin, made.end) == (3, 7)


TOKENS = "the May 2nd, 1999 $5 million a.m. St. James 😀 USB (so) — A 3:30 #4 U.S. x² ½"


@given(st.lists(st.sampled_from(TOKENS.split())))
def test_every_word_lies_in_its_place_and_all_is_read_as_the_whole_is(words: list[str]) -> None:
    text = " ".join(words)
    made = read(text)
    encode(made.symbols)
    assert laid_out(made)
    at = 0
    for word in made.words:
        assert at <= word.first < word.end <= len(made.symbols)
        assert made.symbols[word.first] in PHONES
        assert made.symbols[word.end] in SEPARATORS
        at = word.end
    assert bool(made.words) == bool(normalize(text))
