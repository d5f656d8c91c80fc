"""Normalisation: a table of readings, and what holds for any text at all."""
# ruff: noqa: E501 (a table is read by rows)

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech.text import cardinal, digits, normalize, ordinal, year

READINGS = [
    ("Hello, world!", "hello world"),
    ("WE CALL IT BEAR", "we call it bear"),
    ("twenty-five o'clock — “don't”", "twenty five o'clock don't"),
    ("the prisoners' 'rock' 'tis it’s", "the prisoners rock tis it's"),
    ("Café naïve Ærø ½", "cafe naive aero one half"),
    ("Mr. Smith, Mrs. Lynde & Dr. Who vs. Messrs. Miller etc.", "mister smith missus lynde and doctor who versus messrs miller et cetera"),
    ("St. Louis, 5 Main St.", "saint louis five main street"),
    ("Capt. Hook and Gen. Lee, No. 5", "captain hook and general lee number five"),
    ("no. I said no", "no i said no"),
    ("Press 1 for A.M, or 2 for P.M.", "press one for a m or two for p m"),
    ("There were 199 debtors, 5719 writs and 10,000 more", "there were one hundred ninety nine debtors five thousand seven hundred nineteen writs and ten thousand more"),
    ("in 1805, 1900, 1999, 2000, 2009, 2011", "in eighteen oh five nineteen hundred nineteen ninety nine two thousand two thousand nine twenty eleven"),
    ("the 1990s, the '80s", "the nineteen nineties the eighties"),
    ("the 1st, 2nd, 3rd, 12th, 20th, 21st and 103rd", "the first second third twelfth twentieth twenty first and one hundred third"),
    ("On January 3, 2011 or May 22nd", "on january third twenty eleven or may twenty second"),
    ("2 May 1999 or the 4th of July, on 5 June", "second of may nineteen ninety nine or the fourth of july on fifth of june"),
    ("$1.5M, £2bn, $12.5k, $.50, $5 m", "one point five million dollars two billion pounds twelve point five thousand dollars fifty cents five dollars m"),
    ("10km, 1 lb, 6 ft, 2.5 kg, 100 km/h, -5°C, 90°F, 3 GHz", "ten kilometers one pound six feet two point five kilograms one hundred kilometers an hour minus five degrees celsius ninety degrees fahrenheit three gigahertz"),
    ("1/2, 3/4 cup, 2 1/2 pints, 7/8, but 24/7 and 9/11", "one half three quarters cup two and a half pints seven eighths but twenty four seven and nine eleven"),
    ("5-10 people, 1914–1918, a 2-1 win", "five to ten people nineteen fourteen to nineteen eighteen a two one win"),
    ("Add ½ cup, ⅓ cup, 2⅔ cups, 2 ½, 5¼–6¾ in, ½–1, ⅒, 3⁄16, 1½ kg", "add one half cup one third cup two and two thirds cups two and a half five and a quarter to six and three quarters in one half to one one tenth three sixteenths one and a half kilograms"),
    ("$2½, 1000½, -½ and 2¹⁄₂", "two dollars and a half one thousand and a half minus one half and two and a half"),
    ("10² is, 5 km², 10⁶, 10⁻³, 10¹², x²y³, E=mc², 3ⁿ", "ten squared is five kilometers squared ten to the six ten to the minus three ten to the twelve x squared y cubed e equals mc squared three n"),
    ("H₂O, the study² says, 1ˢᵗ", "h two o the study two says first"),
    ("Windows™, Intel®’s №\u202f5, in\u00adter\u00adna\u00adtion\u00adal zero\u200bwidth Hawaiʻi \ufeffO’Neill", "windows intel's number five international zerowidth hawai'i o'neill"),
    ("Đà Nẵng, Đoković, Guðrún Þór, Işık, Iğdır, İzmir, Ħal, ĐÐÞ", "da nang dokovic gudrun thor isik igdir izmir hal ddth"),
    ("3/14/2015 and 2015-03-14", "march fourteenth twenty fifteen and march fourteenth twenty fifteen"),
    ("at 10:00 AM, 9:05 p.m., 5pm, 17:30", "at ten a m nine oh five p m five p m seventeen thirty"),
    ("at 7:00", "at seven o'clock"),
    ("$3.50, $1, £90,000, $1.5 million, £2.05", "three dollars and fifty cents one dollar ninety thousand pounds one point five million dollars two pounds and five pence"),
    ("$0.99 and $0.01", "ninety nine cents and one cent"),
    ("47% of 23.14 and .5", "forty seven percent of twenty three point one four and point five"),
    ("-5 degrees, #4", "minus five degrees number four"),
    ("(408) 247-8880, 601-8159", "four zero eight two four seven eight eight eight zero six zero one eight one five nine"),
    ("the code is 7535, extension 8500, 07529", "the code is seven five three five extension eight thousand five hundred zero seven five two nine"),
    ("$5-10, $1.50–2.50, $5-$10, $1.5-2 million, $5k-10k", "five to ten dollars one dollar and fifty cents to two dollars and fifty cents five dollars to ten dollars one point five to two million dollars five thousand dollars to ten thousand dollars"),
    ("5%-10%, 5kg-10kg, 20°-30°C", "five percent to ten percent five kilograms to ten kilograms twenty degrees to thirty degrees celsius"),
    ("10am-2, 9:00-17, 9-5 p.m., 10:30 a.m.-2 p.m.", "ten a m to two nine o'clock to seventeen nine to five p m ten thirty a m to two p m"),
    ("May 5-7, 2024, Dec. 24th-26th, Jan 31–Feb 2, 5-7 May 1999", "may fifth to seventh twenty twenty four december twenty fourth to twenty sixth january thirty first to february second fifth to seventh of may nineteen ninety nine"),
    ("1.5-2 hours, 3.5–4.5, 10,500-20,000", "one point five to two hours three point five to four point five ten thousand five hundred to twenty thousand"),
    ("May 5-2024, (5)-10, word—5, 10% -- 5", "may fifth twenty twenty four five ten word five ten percent five"),
    ("from 5 - 10, 1pm - 3pm, 4:30 -7:45, 441 -8th Street, May 5-50", "from five ten one p m three p m four thirty seven forty five four hundred forty one eighth street may fifth fifty"),
    ("zip code 90210-1234, CA 90210-1234, code 123-456", "zip code nine zero two one zero one two three four ca nine zero two one zero one two three four code one two three four five six"),
    ("-$5, a balance of -$20.50 (-£3), $-5 and -.5", "minus five dollars a balance of minus twenty dollars and fifty cents minus three pounds minus five dollars and minus point five"),
    ("x=-5, “-5”, '-5', (0,-5), [-5]", "x equals minus five minus five minus five zero minus five minus five"),
    ("version 3.11.2, v1.2.3, 192.168.1.1, 2.5.", "version three point eleven point two v one point two point three one hundred ninety two point one hundred sixty eight point one point one two point five"),
    ("12-digit pascal2", "twelve digit pascal two"),
    ("5, 4, 3, 2, 1...", "five four three two one"),
    ("", ""),
    ("?! 日本語", ""),
]  # fmt: skip


@pytest.mark.parametrize(("written", "spoken"), READINGS)
def test_written_english_becomes_the_words_a_reader_says(written: str, spoken: str) -> None:
    assert normalize(written) == spoken


@given(st.text(max_size=60) | st.text(alphabet="0123456789.,:/-$£%#'aApPmMsStThHdDrR ", max_size=40))
def test_any_text_becomes_letters_and_inner_apostrophes_and_twice_is_once(text: str) -> None:
    out = normalize(text)
    assert re.fullmatch(r"([a-z]+('[a-z]+)*( [a-z]+('[a-z]+)*)*)?", out)
    assert normalize(out) == out


@pytest.mark.parametrize("written", ["{}", "a{}", "{},000", "${}", "${}.50", "{}.5", "{}th", "{}km", "${}k", "#{}"])
def test_numbers_too_long_to_have_a_name_are_read_digit_by_digit(written: str) -> None:
    assert "one one one one" in normalize(written.format("1" * 5000))


def test_a_long_number_between_commas_has_its_name() -> None:
    assert normalize("1,000,000,000,000,000") == "one thousand trillion"
    assert normalize(",".join(["111"] * 7)) == " ".join(["one"] * 21)


def test_no_letter_of_any_script_gets_through() -> None:
    assert set(normalize(" ".join(map(chr, range(0x10000))))) <= set("abcdefghijklmnopqrstuvwxyz' ")


_VALUE = {cardinal(n): n for n in range(1000)}


def _number(words: str) -> int:
    total = 0
    for name, scale in (("trillion", 10**12), ("billion", 10**9), ("million", 10**6), ("thousand", 1000)):
        head, found, words = words.rpartition(f" {name}") if f" {name}" in words else ("", "", words)
        total += _VALUE[head.strip()] * scale if found else 0
    return total + (_VALUE[words.strip()] if words.strip() else 0)


@given(st.integers(0, 10**15 - 1))
def test_a_number_s_words_give_the_number_back(number: int) -> None:
    assert _number(cardinal(number)) == number


def test_the_numbers_below_a_thousand_have_different_words() -> None:
    assert len(_VALUE) == 1000
    assert len({ordinal(n) for n in range(1000)}) == 1000


def test_ordinals_years_and_digits() -> None:
    assert [ordinal(n) for n in (5, 8, 9, 30, 1000)] == ["fifth", "eighth", "ninth", "thirtieth", "one thousandth"]
    assert [year(n) for n in (1066, 1500, 2020)] == ["ten sixty six", "fifteen hundred", "twenty twenty"]
    assert digits("(07) 5") == "zero seven five"
