"""Numbers for readers: what was said in words, written in digits; the way back from `text.normalize`.

Words come from the punctuation's second pass (`punctuate`), marks and capitals on them; what leaves is fewer words:
`twenty first` as `21st`, `five thirty p m` as `5:30 p.m.`, `three dollars and fifty cents` as `$3.50`. Small numbers
alone stay words, as printed text has them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from .asr.words import Word
from .text import MONTHS, cardinal, ordinal

_SMALL = {cardinal(n): n for n in range(20)} | {"oh": 0}
_TENS = {cardinal(n): n for n in range(20, 100, 10)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NTH = {ordinal(n): n for n in range(20)} | {ordinal(n): n for n in range(20, 100, 10)}
_NTH_SCALES = {"hundredth", *(f"{scale}th" for scale in _SCALES)}
_UNITS = {"dollar": "$", "dollars": "$", "pound": "£", "pounds": "£", "euro": "€", "euros": "€", "yen": "¥"}
_COINS = {"$": ("cent", "cents"), "£": ("penny", "pence"), "€": ("cent", "cents")}
_HALVES = {"a": "a.m.", "p": "p.m."}
_INNER = {"and", "a", "point", "hundred", "percent", "per", "cent", "cents", "penny", "pence", "p", "m", "o'clock"}
PARTS = {*_SMALL, *_TENS, *_SCALES, *_NTH, *_NTH_SCALES, *_UNITS, *_INNER}
"""Every word that a written number may be made of; any other ends it."""

FEW = 10  # below it a number alone is a word
Found = tuple[int, str]  # where it ends, how it is written


def write_numbers(words: Sequence[Word], before: str = "") -> list[Word]:
    """The same words, every number among them one word. before: the word ahead of them, if any.

    A mark on a word ends the number: `three, four` stays two.
    """
    ahead = ["" if word[-1:] in (",", ".", "?") else word.lower() for word in (before, *(w.word for w in words))]
    plain = [w.word.rstrip(",.?").lower() for w in words]
    closed = [w.word[-1:] in (",", ".", "?") for w in words]
    made: list[Word] = []
    at = 0
    while at < len(words):
        end = at + 1
        while end < len(words) and not closed[end - 1]:
            end += 1
        stop, text = _number(plain[at:end], ahead[at]) or (1, "")
        if text:
            last = words[at + stop - 1]
            mark = last.word[len(last.word.rstrip(",.?")) :]
            mark = mark[text.endswith(".") and mark[:1] == "." :]  # one full stop is enough after p.m.
            sure = min(w.confidence for w in words[at : at + stop])
            made.append(Word(text + mark, words[at].start_sample, last.stop_sample, sure))
        else:
            made += words[at : at + stop]
        at += stop
    return made


def split(words: Sequence[Word]) -> int:
    """How many of the words no later one can change: those up to the last that is in no number, or bears a mark."""
    for n in range(len(words), 0, -1):
        word = words[n - 1].word
        if word[-1:] in (",", ".", "?") or word.lower() not in PARTS:
            return n
    return 0


def _number(words: Sequence[str], before: str) -> Found | None:
    """The longest number that the words begin with; "" where it stays as it was said."""
    rules: tuple[Callable[[Sequence[str]], Found | None], ...] = (_money, _clock, _percent, _spelled, _nth, _amount)
    found = [f for f in (rule(words) for rule in rules) if f is not None]
    best = max(found, key=lambda f: f[0], default=None)  # the first of the longest: rules stand in order of merit
    if best is None and before in MONTHS and words and words[0] in _NTH and _NTH[words[0]]:
        return None if words[1:2] in (["of"], ["thing"]) else (1, _with_ending(_NTH[words[0]]))
    if best and (before == "point" or (before in ("half", "of") and words[0] == "a")):
        return best[0], ""  # part of a number that has no figures here: half a million, point five
    return best


def _below_hundred(words: Sequence[str]) -> tuple[int, int] | None:
    """(words used, value)."""
    if words and words[0] in _TENS:
        if len(words) > 1 and 1 <= _SMALL.get(words[1], 0) <= 9:
            return 2, _TENS[words[0]] + _SMALL[words[1]]
        return 1, _TENS[words[0]]
    if words and words[0] in _SMALL and words[0] != "oh":
        return 1, _SMALL[words[0]]
    return None


def _below_thousand(words: Sequence[str]) -> tuple[int, int] | None:
    if len(words) > 1 and words[1] == "hundred" and (words[0] == "a" or 1 <= _SMALL.get(words[0], 0) <= 9):
        hundreds = 100 * (1 if words[0] == "a" else _SMALL[words[0]])
        return _added(words, 2, hundreds, _below_hundred, ("hundred",))
    return _below_hundred(words)


def _added(words: Sequence[str], used: int, value: int, rest: Callable[[Sequence[str]], tuple[int, int] | None],
           larger: Collection[str] = ("hundred", *_SCALES)) -> tuple[int, int]:  # fmt: skip
    """With what follows, `and` before it or not, if that is not nothing, nor the beginning of a number as large."""
    for skip in (0, 1):
        if not skip or words[used : used + 1] == ["and"]:
            more = rest(words[used + skip :])
            if more and more[1]:
                end = used + skip + more[0]
                return (used, value) if end < len(words) and words[end] in larger else (end, value + more[1])
    return used, value


def _whole(words: Sequence[str], below: int = 10**15) -> tuple[int, int] | None:
    """A cardinal: groups of up to three digits, each scale smaller than the one before."""
    group = (1, 1) if words[:1] == ["a"] and len(words) > 1 and words[1] in _SCALES else _below_thousand(words)
    if group is None:
        return None
    used, value = group
    scale = _SCALES.get(words[used]) if used < len(words) else None
    if scale is None or scale >= below or not value:
        return group
    return _added(words, used + 1, value * scale, lambda rest: _smaller(rest, scale))


def _smaller(words: Sequence[str], scale: int) -> tuple[int, int] | None:
    found = _whole(words, scale)
    return found if found and found[1] < scale else None


def _year(words: Sequence[str]) -> tuple[int, int] | None:
    """Two pairs: nineteen oh five, twenty twenty, eighteen hundred."""
    century = _below_hundred(words)
    if century is None or not 11 <= century[1] <= 20:
        return None
    used, value = century
    rest = words[used:]
    if rest[:1] == ["hundred"]:
        return _added(words, used + 1, 100 * value, _below_hundred)
    if len(rest) > 1 and rest[0] == "oh" and 1 <= _SMALL.get(rest[1], 0) <= 9:
        return used + 2, 100 * value + _SMALL[rest[1]]
    years = _below_hundred(rest)
    return (used + years[0], 100 * value + years[1]) if years and years[1] >= 10 else None


def _decimal(words: Sequence[str]) -> Found | None:
    """A cardinal in digits, with what follows the point; its commas only from five digits on."""
    whole = _whole(words)
    if whole is None:
        return None
    used, value = whole
    text = f"{value:,}" if value >= 10_000 else str(value)
    if words[used : used + 1] == ["point"]:
        digits = _digits(words[used + 1 :])
        if digits:
            return used + 1 + len(digits), f"{text}.{digits}"
    return used, text


def _digits(words: Sequence[str]) -> str:
    """One word a digit, as long as they come."""
    made = ""
    for word in words:
        if not 0 <= _SMALL.get(word, 10) <= 9:
            break
        made += str(_SMALL[word])
    return made


def _amount(words: Sequence[str]) -> Found | None:
    """A number alone: digits from ten on, with a million and more in part words."""
    if year := _year(words):
        return year[0], str(year[1])
    short = _round(words)
    if short:
        return short
    found = _decimal(words)
    if found is None or (found[0] == 1 and words[0] in _SMALL and _SMALL[words[0]] < FEW):
        return None
    return (found[0], "") if words[0] == "a" else found  # a hundred and one


def _round(words: Sequence[str]) -> Found | None:
    """Five million, 2.5 billion: what no smaller number follows."""
    number = _below_thousand(words)
    if words[:1] == ["a"] or number is None:
        return None
    used, text = number[0], str(number[1])
    if words[used : used + 1] == ["point"] and (digits := _digits(words[used + 1 :])):
        used, text = used + 1 + len(digits), f"{text}.{digits}"
    if words[used : used + 1] and words[used] in ("million", "billion", "trillion"):
        whole = _whole(words)
        if whole is None or whole[0] <= used + 1:
            return used + 1, f"{text} {words[used]}"
    return None


def _money(words: Sequence[str]) -> Found | None:
    found = _round(words) or _decimal(words)
    if found is None:
        return None
    used, text = found
    sign = _UNITS.get(words[used]) if used < len(words) else None
    if sign is None or (words[used] == "pound" and text != "1"):
        return None
    used += 1
    rest = words[used:]
    if sign in _COINS and rest[:1] == ["and"] and "." not in text and " " not in text:
        cents = _below_hundred(rest[1:])
        if cents and rest[1 + cents[0] : 2 + cents[0]] and rest[1 + cents[0]] in _COINS[sign]:
            return used + 2 + cents[0], f"{sign}{text}.{cents[1]:02d}"
    return used, sign + text


def _clock(words: Sequence[str]) -> Found | None:
    hour = _below_hundred(words)
    if hour is None or not 1 <= hour[1] <= 12:
        return None
    used, text = hour[0], str(hour[1])
    if words[used : used + 1] == ["o'clock"]:
        return used + 1, f"{text} o'clock"
    minute = _below_hundred(words[used:])
    if words[used : used + 1] == ["oh"] and 1 <= _SMALL.get("".join(words[used + 1 : used + 2]), 0) <= 9:
        minute = (2, _SMALL[words[used + 1]])
    if minute and (minute[0] == 2 or minute[1] >= 10) and minute[1] < 60:
        used, text = used + minute[0], f"{text}:{minute[1]:02d}"
    if used + 1 < len(words) and words[used] in _HALVES and words[used + 1] == "m":
        return used + 2, f"{text} {_HALVES[words[used]]}"
    return None


def _percent(words: Sequence[str]) -> Found | None:
    found = _decimal(words)
    if found is None:
        return None
    for unit in (["percent"], ["per", "cent"]):
        if list(words[found[0] : found[0] + len(unit)]) == unit:
            return found[0] + len(unit), found[1] + "%"
    return None


def _spelled(words: Sequence[str]) -> Found | None:
    """Telephone numbers, codes: three digits and more, one after the other."""
    digits = _digits(words)
    return (len(digits), digits) if len(digits) >= 3 and words[0] != "oh" else None


def _nth(words: Sequence[str]) -> Found | None:
    """Ordinals from tenth on: the last word decides."""
    for used in range(1, len(words) + 1):
        last = words[used - 1]
        if last in _NTH or last in _NTH_SCALES:
            said = cardinal(_NTH[last]) if last in _NTH else last.removesuffix("th")
            head = [*words[: used - 1], said]
            whole = _whole(head)
            if whole and whole[0] == used and whole[1] >= FEW and head[0] != "a":
                return used, _with_ending(whole[1])
            return None
        if last not in PARTS:
            break
    return None


def _with_ending(number: int) -> str:
    tens, ones = number // 10 % 10, number % 10
    ending = "th" if tens == 1 else {1: "st", 2: "nd", 3: "rd"}.get(ones, "th")
    return f"{number:,}{ending}" if number >= 10_000 else f"{number}{ending}"
