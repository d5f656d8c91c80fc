"""Numbers are written as readers expect them, and mean the words they were made of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.speech.asr.words import Word
from vivavoce.speech.numerals import split, write_numbers
from vivavoce.speech.text import MONTHS, cardinal, normalize, ordinal

SAID = [
    "one", "two", "twenty", "five", "hundred", "thousand", "and", "a", "point", "dollars", "percent", "cat.", "p", "m",
    "oh", "third", "eleven,", "the", "million", "nineteen", "may", "may,", "of", "half", "point,",
]  # fmt: skip


def words(text: str) -> list[Word]:
    return [Word(w, 100 * i, 100 * i + 80, 1 - i / 100) for i, w in enumerate(text.split())]


def written(text: str) -> str:
    return " ".join(w.word for w in write_numbers(words(text)))


@pytest.mark.parametrize(("said", "expected"), [
    ("I have two cats and twelve dogs.", "I have two cats and 12 dogs."),
    ("one hundred and five", "105"),
    ("three, four, and twenty five.", "three, four, and 25."),
    ("twelve thousand three hundred forty five people", "12,345 people"),
    ("in nineteen eighty four", "in 1984"),
    ("from nineteen oh five to twenty twenty five", "from 1905 to 2025"),
    ("in two thousand nine", "in 2009"),
    ("eighteen hundred", "1800"),
    ("the twenty first century", "the 21st century"),
    ("the first, the third and the tenth", "the first, the third and the 10th"),
    ("on march third nineteen ninety nine", "on march 3rd 1999"),
    ("the one hundred and second time", "the 102nd time"),
    ("It cost three dollars and fifty cents today", "It cost $3.50 today"),
    ("one dollar and five cents", "$1.05"),
    ("twenty pounds", "£20"),
    ("five million dollars", "$5 million"),
    ("two point five billion euros", "€2.5 billion"),
    ("five million people", "5 million people"),
    ("five million three hundred people", "5,000,300 people"),
    ("three point one four", "3.14"),
    ("zero point five percent", "0.5%"),
    ("five per cent of it", "5% of it"),
    ("at five thirty p m.", "at 5:30 p.m."),
    ("at five oh five a m we left", "at 5:05 a.m. we left"),
    ("at seven o'clock", "at 7 o'clock"),
    ("call five five five oh one two three", "call 5550123"),
    ("a hundred years", "a hundred years"),
    ("oh no, one of them", "oh no, one of them"),
    ("I am the one and only", "I am the one and only"),
    ("a m", "a m"),
    ("point five", "point five"),
    ("hundred", "hundred"),
    ("a pound of flesh", "a pound of flesh"),
    ("ten pound notes", "10 pound notes"),
    ("and and and", "and and and"),
    ("It cost half a million dollars", "It cost half a million dollars"),
    ("a quarter of a million dollars", "a quarter of a million dollars"),
    ("he won a million dollars", "he won $1,000,000"),
    ("rates rose by point five percent", "rates rose by point five percent"),
    ("by point twenty five percent", "by point twenty five percent"),
    ("at that point, five percent of them", "at that point, 5% of them"),
    ("one hundred two hundred three hundred", "100 200 300"),
    ("one hundred two thousand", "102,000"),
    ("two thousand three thousand people", "2000 3000 people"),
    ("one thousand twelve hundred", "1000 1200"),
    ("in eighteen hundred and sixty", "in 1860"),
    ("nineteen hundred five", "1905"),
    ("a hundred and one thousand", "a hundred and one thousand"),
    ("on March first we left", "on March 1st we left"),
    ("in March, first of all", "in March, first of all"),
    ("we march first of all to the gate", "we march first of all to the gate"),
    ("", ""),
])
def test_readers_numbers(said: str, expected: str) -> None:
    assert written(said) == expected


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**15 - 1))
def test_every_cardinal_and_ordinal_is_found_whole_and_read_back(number: int) -> None:
    said = cardinal(number)
    made = written(said).split()
    assert len(made) == 1 or made[-1] in ("million", "billion", "trillion") or number == 0
    digits = " ".join(made).replace(",", "")
    if digits.isdecimal():
        assert int(digits) == number
    if number >= 10:
        nth = written(ordinal(number))
        assert " " not in nth
        assert int(nth.replace(",", "")[:-2]) == number


@pytest.mark.parametrize("text", [
    "It cost $3.50 on May 21st, 1999.", "at 5:30 p.m. or 7 o'clock", "0.5% of 12,345", "$5 million", "in 1905 and 2025",
    "the 102nd time", "£20 and €2.5 billion",
])
def test_what_was_normalised_comes_back_to_the_same_words(text: str) -> None:
    said = normalize(text)
    assert any(c.isdigit() for c in written(said))
    assert normalize(written(said)) == said


def test_a_written_number_lasts_as_long_as_its_words_and_is_as_sure_as_the_worst() -> None:
    [made] = write_numbers(words("twenty five."))
    assert made == Word("25.", 0, 180, 0.99)


def test_a_month_before_makes_small_days_numbers_also_across_a_feed() -> None:
    assert [w.word for w in write_numbers(words("third"), before="march")] == ["3rd"]
    assert [w.word for w in write_numbers(words("third"), before="the")] == ["third"]
    assert len(MONTHS) == 12


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SAID), max_size=14), st.integers(0, 14))
def test_nothing_before_the_split_waits_for_what_comes(said: list[str], cut: int) -> None:
    """What is written at once is what is written in two parts, cut where `split` allows."""
    whole = words(" ".join(said))
    ready = split(whole[:cut])
    head, rest = whole[:ready], whole[ready:]
    before = head[-1].word if head else ""
    assert write_numbers(head) + write_numbers(rest, before) == write_numbers(whole)
