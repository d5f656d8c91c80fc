"""SSML's `say-as`: what kind of thing a piece of text is, so that it is read as that and not as what it looks like.

`ssml` hands over an element's content; what comes back is read as ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vivavoce.speech.errors import BadSpeech
from vivavoce.speech.text import MONTHS, cardinal, digits, ordinal, year

_LARGEST = 10**15


def say_as(content: str, kind: str, form: str = "") -> str:
    """kind: SSML's interpret-as; form: of a date, the order of its parts (mdy, dmy, ymd, my, md, dm, y).

    >>> say_as("1999", "digits"), say_as("3", "ordinal"), say_as("1/2/1999", "date", "dmy")
    ('one nine nine nine', 'third', 'february first nineteen ninety nine')

    Raises BadSpeech for a kind that is not among SSML's usual ones, and for content that is not of its kind.
    """
    if kind not in _KINDS:
        raise BadSpeech(f'SSML: say-as interpret-as="{kind}" is none of {", ".join(_KINDS)}')
    said = _date(content, form) if kind == "date" else _KINDS[kind](content)
    if not said.strip():
        raise BadSpeech(f'SSML: {content!r} cannot be read as {kind}; correct it, or leave out <say-as>')
    return said


def _number(content: str) -> int:
    bare = re.sub(r"[,\s]", "", content)
    if not re.fullmatch(r"\d{1,15}", bare) or not bare.isascii():
        raise BadSpeech(f"SSML: {content!r} is not a whole number below {_LARGEST}")
    return int(bare)


def _cardinal(content: str) -> str:
    if re.fullmatch(r"-?[\d,]*\.\d+", content):
        return content
    return f"minus {cardinal(_number(content[1:]))}" if content.startswith("-") else cardinal(_number(content))


def _characters(content: str) -> str:
    """Letters as capitals, which are read by their names."""
    return " ".join(c.upper() if c.isalpha() else c for c in content if not c.isspace())


def _fraction(content: str) -> str:
    m = re.fullmatch(r"\s*(?:(\d{1,6})[ +])?\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", content)
    if not m:
        raise BadSpeech(f"SSML: {content!r} is not a fraction like 3/4")
    top, bottom = int(m[2]), int(m[3])
    name = {2: "half", 4: "quarter"}.get(bottom, ordinal(bottom))
    plural = "halves" if name == "half" else f"{name}s"
    whole = f"{cardinal(int(m[1]))} and " if m[1] else ""
    return f"{whole}{cardinal(top)} {name if top == 1 else plural}"


def _date(content: str, form: str) -> str:
    """Numbers in the order that `form` says; without one, or with a month's name in it, it is read as it stands."""
    parts = re.findall(r"\d+", content)
    if not form or re.search("[a-z]", content, re.IGNORECASE):
        return content
    if len(parts) != len(form) or set(form) - set("ymd") or any(len(part) > 6 for part in parts):
        raise BadSpeech(f'SSML: {content!r} does not fit the date format "{form}", which is like mdy, dmy, ymd or md')
    values = dict(zip(form, map(int, parts), strict=True))
    if not 1 <= values.get("m", 1) <= 12 or not 1 <= values.get("d", 1) <= 31:
        raise BadSpeech(f'SSML: {content!r} is no date of the format "{form}"')
    said = [MONTHS[values["m"] - 1]] if "m" in values else []
    said += [ordinal(values["d"])] if "d" in values else []
    return " ".join([*said, year(values["y"])] if "y" in values else said)


_KINDS: dict[str, Callable[[str], str]] = {
    "cardinal": _cardinal,
    "number": _cardinal,
    "ordinal": lambda content: ordinal(_number(content)),
    "digits": digits,
    "telephone": digits,
    "characters": _characters,
    "spell-out": _characters,
    "verbatim": _characters,
    "fraction": _fraction,
    "date": str,
    "time": str,
    "currency": str,
    "unit": str,
    "address": str,
    "expletive": lambda content: "bleep",
}
