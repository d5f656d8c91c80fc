"""Text as the recogniser writes it: `normalize` turns written English into lower-case spoken words, a-z and apostrophe.

Transcripts, sentences for the synthesiser and recognition hypotheses all pass through it, so that training labels and
scores agree on one spelling. Its output goes to the tokenizer trainer, the data recipes and the error-rate counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_ONES = _SMALL.split()
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_LONGEST = 18  # digits of a number that is read by its name; in longer ones nobody would follow it
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_UNITS = {"$": ("dollar", "cent"), "£": ("pound", "pence"), "€": ("euro", "cent"), "¥": ("yen", "sen")}
_CALENDAR = "january february march april may june july august september october november december"
MONTHS = _CALENDAR.split()
_SYMBOLS = {"&": "and", "%": "percent", "+": "plus", "@": "at", "=": "equals", "°": "degrees"}
_ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "drs": "doctors",
    "messrs": "messrs",
    "etc": "et cetera",
    "vs": "versus",
    "jr": "junior",
    "sr": "senior",
}
# Only with a capital and a full stop: as bare words these mean something else.
TITLES = {
    "Capt": "captain",
    "Col": "colonel",
    "Gen": "general",
    "Lt": "lieutenant",
    "Sgt": "sergeant",
    "Maj": "major",
    "Rev": "reverend",
    "Hon": "honorable",
    "Prof": "professor",
    "Gov": "governor",
    "Sen": "senator",
    "Esq": "esquire",
    "Co": "company",
    "Ltd": "limited",
    "Inc": "incorporated",
    "Dept": "department",
    "Ave": "avenue",
    "Blvd": "boulevard",
    "Rd": "road",
    "Ft": "fort",
    "Mt": "mount",
}
# Right after a number.
_MEASURES = {
    "km/h": "kilometer", "mph": "mile", "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram",
    "mg": "milligram", "lbs": "pound", "lb": "pound", "oz": "ounce", "ft": "foot", "yd": "yard", "mi": "mile",
    "ml": "milliliter", "gb": "gigabyte", "mb": "megabyte", "kb": "kilobyte", "tb": "terabyte", "ghz": "gigahertz",
    "mhz": "megahertz", "khz": "kilohertz", "hz": "hertz", "kw": "kilowatt", "hrs": "hour", "hr": "hour",
    "mins": "minute", "secs": "second", "ms": "millisecond", "°f": "degree", "°c": "degree",
}  # fmt: skip
_MEASURE_ENDS = {"km/h": " an hour", "mph": " an hour", "°f": " fahrenheit", "°c": " celsius"}
_MANY = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion", "tn": "trillion"}
_PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 8: "eighth"}
_FOLD = str.maketrans(
    {
        **dict.fromkeys("‘’‛′`´ʼʻ", "'"),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("™℠®", ""),
        **{"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d"},
        **{"Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ħ": "h", "Ħ": "H", "ı": "i", "№": " number "},
    }
)
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_AT_FRACTION = re.compile(rf"(?<=\d)(?=[¼½¾⅐-⅟↉]|[{_RAISED}]+⁄)")
# After a number, a unit or a variable; a longer word has a footnote there.
_POWERS = {"2": "squared", "3": "cubed"}
_POWER = re.compile(rf"(\d|(?<![^\W\d_{_RAISED}])[A-Za-z]{{1,2}})(⁻?[{_RAISED}]+)(?![{_RAISED}⁄])")
_NUMBER = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_AMOUNT = rf"(?:{_NUMBER})(?:\.\d+)?"
_SHORT = r"(?:\d{1,3}(?:,\d{3})+|\d{1,4})(?:\.\d+)?"  # no code
_SCALE = rf"hundred|thousand|million|billion|trillion|{'|'.join(_MANY)}"
_MONTH = "|".join(MONTHS) + "|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
_TH = "(?:st|nd|rd|th)?"
# What a number follows as in 5%-10%. It is read first, after which no digit would stand before the hyphen.
_MEASURED = "|".join((
    rf"{_AMOUNT}\s?(?:[%°]|{'|'.join(_MEASURES)})",
    r"\d{1,2}(?::[0-5]\d)?\s*[ap]\.?\s?m\.?",
    r"\d{1,2}:[0-5]\d",
    r"\d{1,2}(?=-\d{1,2}(?::[0-5]\d)?\s*[ap]\.?\s?m\b)",
    r"[1-7]/[23458]|\d+⁄\d+",
))  # fmt: skip


def cardinal(number: int) -> str:
    """The words of a whole number below 10^15, the American way: `1205` -> `one thousand two hundred five`."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f" {_ONES[ones]}" if ones else "")
    for scale, name in _SCALES:
        if number >= scale:
            head, rest = divmod(number, scale)
            return f"{cardinal(head)} {name}" + (f" {cardinal(rest)}" if rest else "")
    raise AssertionError("unreachable: every number from 100 up has a scale")


def ordinal(number: int) -> str:
    """The ordinal's words: `21` -> `twenty first`."""
    words = cardinal(number).split()
    last = words[-1]
    words[-1] = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last.removesuffix("t") + "th")
    return " ".join(words)


def year(number: int) -> str:
    """A year as it is said: `1905` -> `nineteen oh five`, `2009` -> `two thousand nine`."""
    century, rest = divmod(number, 100)
    if not 1000 <= number <= 9999 or (century % 10 == 0 and rest < 10):
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def digits(text: str) -> str:
    """Every digit of `text` as a word, everything else left out: `07-5` -> `zero seven five`."""
    return " ".join(_ONES[int(c)] for c in text if c.isdecimal())


def _plain(text: str) -> str:
    """A run of digits, perhaps with commas, as years, codes and amounts are usually read."""
    bare = text.replace(",", "")
    if len(bare) > (_LONGEST if "," in text else 12):
        return digits(bare)
    number = int(bare)
    if "," not in text:
        if (len(bare) > 1 and bare[0] == "0") or (len(bare) >= 6 and number % 1000):
            return digits(bare)
        if len(bare) == 4 and (1100 <= number < 2000 or 2010 <= number < 2100):
            return year(number)
    return cardinal(number)


def _decimal(whole: str, fraction: str | None) -> str:
    return f"{_plain(whole or '0')} point {digits(fraction)}" if fraction else _plain(whole)


def _money(m: re.Match[str]) -> str:
    unit, small = _UNITS[m["unit"]]
    whole, cents, scale = m["whole"].replace(",", ""), m["cents"], m["scale"]
    plural = "" if unit == "yen" else "s"
    if scale:
        return f" {_decimal(m['whole'], cents)} {scale} {unit}{plural} "
    if (cents and len(cents) != 2) or len(whole) > _LONGEST:
        return f" {_decimal(m['whole'], cents)} {unit}{plural} "
    words = f" {cardinal(int(whole))} {unit}{'' if int(whole) == 1 else plural} "
    if not cents or cents == "00":
        return words
    small = small if small == "pence" or int(cents) == 1 else f"{small}s"
    return (words if int(whole) else " ") + ("and " if int(whole) else "") + f"{cardinal(int(cents))} {small} "


def _time(m: re.Match[str]) -> str:
    hour, minute, half = int(m["hour"]), int(m["minute"] or 0), m["half"]
    words = cardinal(hour)
    if minute:
        words += f" {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif not half:
        words += " o'clock" if 1 <= hour <= 12 else " hundred"
    return f" {words} {half.lower()} m " if half else f" {words} "


def _date(m: re.Match[str]) -> str:
    name = m["month"].lower()
    month = next(full for full in MONTHS if full.startswith(name[:3]))
    day = int(m["day"])
    if not 1 <= day <= 31:
        return m[0]
    return f" {month} {ordinal(day)} " + (f"{year(int(m['year']))} " if m["year"] else "")


def _slashed_date(m: re.Match[str]) -> str:
    month, day = int(m["month"]), int(m["day"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return m[0]
    return f" {MONTHS[month - 1]} {ordinal(day)} {year(int(m['year']))} "


def _day_first(m: re.Match[str]) -> str:
    day = int(m["day"])
    if not 1 <= day <= 31:
        return m[0]
    return f" {ordinal(day)} of {m['month'].lower()} " + (f"{year(int(m['year']))} " if m["year"] else "")


def _measure(m: re.Match[str]) -> str:
    unit = m["unit"].lower()
    name = _MEASURES[unit]
    one = m["number"] == "1"
    plural = {"foot": "feet"}.get(name, name if name.endswith("hertz") else f"{name}s")
    return f"{m['number']} {name if one else plural}{_MEASURE_ENDS.get(unit, '')} "


def _fraction(m: re.Match[str]) -> str:
    top, bottom = int(m["top"]), int(m["bottom"])
    if top >= bottom:
        return m[0]
    name = _PARTS.get(bottom) or ordinal(bottom)
    whole = f"{m['whole']} and " if m["whole"] else " "
    article = m["whole"] and top == 1 and bottom in (2, 4)
    return f"{whole}{'a' if article else cardinal(top)} {name}{'s' * (top != 1)} "


def _range(m: re.Match[str]) -> str:
    low, high = (float(number.replace(",", "")) for number in m.groups())
    return f"{m[1]} to {m[2]}" if low < high else m[0]


def _money_range(m: re.Match[str]) -> str:
    """$5-10 million is five to ten million dollars; what is an amount by itself stays one: $1.50-2.50, $5-$10."""
    unit, low, cents = m["unit"], m["low"], re.search(r"\.\d\d$", m["low"])
    by_itself = m["scale"] or m["other"] or (cents and not m["high_scale"])
    return f"{unit}{low}{m['scale'] or ''} to {m['other'] or unit}" if by_itself else f"{low} to {unit}"


def _days(m: re.Match[str]) -> str:
    return f"{m[1]} to {ordinal(int(m[2]))} "


def _nth(m: re.Match[str]) -> str:
    bare = m[1].replace(",", "")
    return f" {ordinal(int(bare)) if len(bare) <= _LONGEST else digits(bare)} "


def _code(m: re.Match[str]) -> str:
    return m[0] if m[2].isdigit() and m[2].endswith("00") else f"{m[1]} {digits(m[2])} "


def _decade(m: re.Match[str]) -> str:
    words = year(int(m[1])) if len(m[1]) == 4 else cardinal(int(m[1]))
    return f" {words[:-1]}ies " if words.endswith("y") else f" {words}s "


def _title(m: re.Match[str]) -> str:
    return TITLES[m[1]] + " "


_Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _rule(pattern: str, repl: str | Callable[[re.Match[str]], str], flags: re.RegexFlag = re.IGNORECASE) -> _Rule:
    return re.compile(pattern, flags), repl


_CASED: tuple[_Rule, ...] = (
    _rule(r"\bSt\.?\s+(?=[A-Z])", "saint ", re.RegexFlag(0)),
    _rule(r"\bSt\.", "street ", re.RegexFlag(0)),
    _rule(rf"\b({'|'.join(TITLES)})\.", _title, re.RegexFlag(0)),
    _rule(r"\bNo\.\s*(?=\d)", "number ", re.RegexFlag(0)),
    _rule(
        rf"\b(\d{{1,2}}){_TH}-(?=\d{{1,2}}{_TH} (?:{'|'.join(map(str.title, MONTHS))})\b)",
        lambda m: f"{ordinal(int(m[1]))} to ",
        re.RegexFlag(0),
    ),
    _rule(
        rf"\b(?P<day>\d{{1,2}}){_TH} (?P<month>{'|'.join(map(str.title, MONTHS))})\b"
        r"(?:,? (?P<year>[12]\d{3})\b)?",
        _day_first,
        re.RegexFlag(0),
    ),
)
# The order counts: each rule eats what a later, more general one would misread.
_NUMERIC: tuple[_Rule, ...] = (
    _rule(r"([$£€¥])-(?=\.?\d)", r"-\1"),
    _rule(
        r"""(?<![^\s(\[{“"'=<>:,/*+~])(?<![^\s(\[]["'])"""  # other hyphens join, and a quote after a word closes
        r"-(?=(?:[$£€¥]\s?)?\.?\d)(?!\d+(?:st|nd|rd|th|:))",
        "minus ",
    ),
    _rule(r"([$£€¥])\.(?=\d)", r"\g<1>0."),
    _rule(
        rf"(?P<unit>[$£€¥])\s?(?P<low>{_AMOUNT})(?P<scale>\s?(?:{_SCALE})\b)?-(?P<other>[$£€¥]?)\s?"
        rf"(?={_AMOUNT}(?P<high_scale>\s?(?:{_SCALE})\b)?)",
        _money_range,
    ),
    _rule(rf"\b((?:{_MONTH})\b\.?\s+\d{{1,2}}{_TH})-([12]?\d|3[01]){_TH}\b(?!:)", _days),
    _rule(rf"\b((?:{_MONTH})\b\.?\s+\d{{1,2}}{_TH})-(?=(?:{_MONTH})\b)", r"\1 to "),
    _rule(rf"(?<!\d)({_MEASURED})-(?=\.?\d)", r"\1 to "),
    _rule(
        rf"(?P<unit>[$£€¥])\s?(?P<number>{_AMOUNT})(?P<many>{'|'.join(_MANY)})\b",
        lambda m: f"{m['unit']}{m['number']} {_MANY[m['many'].lower()]}",
    ),
    _rule(rf"\b(?P<number>{_AMOUNT})\s?(?P<unit>{'|'.join(_MEASURES)})(?![\w/])", _measure),
    _rule(r"(?<![\d/.])(?:(?P<whole>\d{1,3})[ -])?(?P<top>[1-7])/(?P<bottom>[23458])(?![\d/])", _fraction),
    _rule(r"(?:(?P<whole>\d)[ -])?(?P<top>\d{1,2})⁄(?P<bottom>[2-9]|[1-9]\d)(?!\d)", _fraction),
    _rule(
        rf"(?P<unit>[$£€¥])\s?(?P<whole>{_NUMBER})(?:\.(?P<cents>\d+))?"
        r"(?:\s?(?P<scale>hundred|thousand|million|billion|trillion))?\b",
        _money,
    ),
    _rule(r"\b(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?:\s*(?P<half>[ap])\.?\s?m\b\.?)?", _time),
    _rule(r"\b(?P<hour>1[0-2]|0?[1-9])(?P<minute>)\s*(?P<half>[ap])\.?\s?m\b\.?", _time),
    _rule(r"\b(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)\b", _slashed_date),
    _rule(r"\b(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4})\b", _slashed_date),
    _rule(
        rf"\b(?P<month>{_MONTH})\b\.?\s+(?P<day>\d{{1,2}}){_TH}\b(?!:)(?:,?\s+(?P<year>[12]\d{{3}})\b)?",
        _date,
    ),
    _rule(r"\b((?:code|dial|extension|password|pin|zip|(?:order|phone) number)(?: is)?)\s+(\d{3,}(?:-\d+)*)\b", _code),
    _rule(r"(?:\+?1[-. ])?\(?\b(\d{3})\)?[-. ](\d{3})[-.](\d{4})\b", lambda m: f" {digits(m[0])} "),
    _rule(r"\b(?:\d{3}|\d{5})-\d{4}\b", lambda m: f" {digits(m[0])} "),
    _rule(rf"(?<![\w-])(?<!\d\.)({_SHORT})-({_SHORT})(?![\w-])", _range),
    _rule(rf"\b({_NUMBER})(?:st|nd|rd|th)\b", _nth),
    _rule(r"(?:\b|')(\d\d|1\d\d0|20\d0)'?s\b", _decade),
    _rule(rf"#\s?(?={_NUMBER})", " number "),
    _rule(r"(?<!\d)(?<!\d\.)\d+(?:\.\d+){2,}", lambda m: f" {' point '.join(map(_plain, m[0].split('.')))} "),
    _rule(rf"({_NUMBER})\.(\d+)(?!\.?\d)", lambda m: f" {_decimal(m[1], m[2])} "),
    _rule(r"(?<!\d)\.(\d+)\b", lambda m: f" point {digits(m[1])} "),
    _rule(_NUMBER, lambda m: f" {_plain(m[0])} "),
)
_WORDS: tuple[_Rule, ...] = (
    _rule(rf"\b({'|'.join(_ABBREVIATIONS)})\b\.?", lambda m: _ABBREVIATIONS[m[1]]),
    _rule(r"\b(?:[a-z]\.){2,}|\b[a-z]\.[a-z]\b", lambda m: m[0].replace(".", " ")),  # i.e., U.S., P.M
    _rule(r"\b([ap])\.m\b\.?", r"\1 m "),
    _rule(r"[&%+@=°]", lambda m: f" {_SYMBOLS[m[0]]} "),
    _rule(r"[^a-z']+", " ", re.RegexFlag(0)),  # in any case, ı would be an i
    _rule(r"'{2,}", " "),
    _rule(r"(?<![a-z])'+|'+(?![a-z])", " "),
)


def _apply(rules: tuple[_Rule, ...], text: str) -> str:
    for pattern, repl in rules:
        text = pattern.sub(repl, text)
    return text


def _fold(text: str) -> str:
    """Plain ASCII letters: compatibility forms unfolded, accents dropped, typographic marks made plain, soft hyphens
    and what else cannot be seen left out. The slash of a fraction stays, ⁄, so that it is told from a date's."""
    if text.isascii():
        return text
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf")
    spaced = _POWER.sub(_power, _AT_FRACTION.sub(" ", seen))
    decomposed = unicodedata.normalize("NFKD", spaced.translate(_FOLD))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).translate(_FOLD)


def _power(m: re.Match[str]) -> str:
    exponent = unicodedata.normalize("NFKD", m[2]).replace("\N{MINUS SIGN}", "minus ")
    return f"{m[1]} {_POWERS.get(exponent) or f'to the {exponent}'} "


def normalize(text: str) -> str:
    """Written English as lower-case spoken words: only a-z, apostrophes inside words, and single spaces.

    Numbers, ordinals, years, money, times, dates, percent and common abbreviations become words; accents are folded;
    apostrophes at a word's edge (quotes, `'tis`, `prisoners'`) are dropped, since they cannot be heard. Normalising
    twice changes nothing. Symbols that are not said and scripts other than Latin vanish.

    >>> normalize("Mr. Smith paid $3.50 on May 2nd, 1999!")
    'mister smith paid three dollars and fifty cents on may second nineteen ninety nine'
    """
    text = _apply(_CASED, _fold(text))
    if any(map(str.isdigit, text)):
        text = _apply(_NUMERIC, text)
    return " ".join(_apply(_WORDS, text.lower()).split())
