"""Kinds of text."""

from __future__ import annotations

import pytest

from vivavoce.speech.errors import BadSpeech
from vivavoce.speech.tts.say_as import say_as


@pytest.mark.parametrize(("content", "kind", "form", "said"), [
    ("1999", "cardinal", "", "one thousand nine hundred ninety nine"),
    ("-1,200", "number", "", "minus one thousand two hundred"),
    ("3.25", "cardinal", "", "3.25"),
    ("21", "ordinal", "", "twenty first"),
    ("1999", "digits", "", "one nine nine nine"),
    ("(555) 12-3", "telephone", "", "five five five one two three"),
    ("abC1", "characters", "", "A B C 1"),
    ("a b", "spell-out", "", "A B"),
    ("3/4", "fraction", "", "three quarters"),
    ("2 1/2", "fraction", "", "two and one half"),
    ("5/16", "fraction", "", "five sixteenths"),
    ("1/2/1999", "date", "mdy", "january second nineteen ninety nine"),
    ("1/2/1999", "date", "dmy", "february first nineteen ninety nine"),
    ("1999-02", "date", "ym", "february nineteen ninety nine"),
    ("May 2nd", "date", "", "May 2nd"),
    ("5:30pm", "time", "", "5:30pm"),
    ("darn", "expletive", "", "bleep"),
])  # fmt: skip
def test_a_text_is_read_as_what_it_is_said_to_be(content: str, kind: str, form: str, said: str) -> None:
    assert say_as(content, kind, form) == said


@pytest.mark.parametrize(("content", "kind", "form"), [
    ("five", "cardinal", ""), ("1" * 16, "cardinal", ""), ("٣", "cardinal", ""), ("x", "digits", ""),
    ("", "characters", ""), ("3", "fraction", ""), ("13/1/1999", "date", "mdy"), ("1/2", "date", "mdy"),
    ("1/2", "date", "mx"), ("1" * 5000, "date", "y"),
    ("1" * 7, "date", "y"), ("x", "poem", ""), ("", "date", ""),
])  # fmt: skip
def test_what_is_not_of_its_kind_is_an_error_that_quotes_it(content: str, kind: str, form: str) -> None:
    with pytest.raises(BadSpeech, match="SSML"):
        say_as(content, kind, form)
