"""Where a text that is still being written can be spoken: written words in, phrases out.

A phrase is planned and spoken at once, so it ends where a voice may rest: at a sentence's end, at a comma once it is
long enough, and, because sound has to leave after some five words, between words where they bind least. Every decision
rests on words that are certain, never on how the text was cut or when it came. Words come from an `ssml.Reader`;
`script` makes phones of the phrases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import accumulate

from vivavoce.speech.text import MONTHS, TITLES, normalize

from .phones import SPACE
from .ssml import Break, Item, Written

CONTEXT = 8  # words of the phrase before that are planned again with the next one, so that it goes on in their tone
CONTEXT_SIZE = 40  # and about how many words they may take to say, all together: a written one may be a long number
# Of the first phrases and then of all others: the words after which one is cut, and from which on a comma ends it. They
# grow, for longer phrases sound better, but no faster than a text of ten words a second keeps ahead of its sound.
LIMITS = ((5, 3), (5, 3), (7, 4), (12, 6), (22, 8))
_ENDS = ".?!"
_STRENGTH = {mark: i for i, mark in enumerate((SPACE, ",", ";", ".", "?", "!"))}
_OPENING = "\"'“‘("
_CLOSING = "\"'”’)]}*_»"
_NEVER_END = frozenset(["e.g", "i.e", "cf", "vs", "mr", "mrs", "ms", "dr", "drs", "messrs", "st", "viz",
                        *map(str.lower, TITLES)]) - {"co", "inc", "ltd", "esq", "ave", "blvd", "rd"}
_MAY_END = frozenset(["etc", "jr", "sr", "co", "inc", "ltd", "esq", "ave", "blvd", "rd", "no", "ph.d", "approx", "jan",
                      "feb", "apr", "aug", "sept", "sep", "oct", "nov", "dec"])  # fmt: skip
_DAY = re.compile(r"\b\d{1,2}(?:st|nd|rd|th)?$", re.IGNORECASE)  # of the month
# words that hold on to the next one, and words that begin something new
_BINDERS_TEXT = """
a an the this that these those my your his her its our their of to in on at by for from with and or but as is are was
were be been have has had do does did will would can could should must may might not no very so too more most i he
she we they who which what when where if than into over under about mr mrs dr every each some any
"""
_BINDERS = frozenset(_BINDERS_TEXT.split())
_STARTERS_TEXT = """
and or but that which who when where while because if as than for of to in on at by with from into over under about
after before between through during without is are was were has have had will would can could should must may might
"""
_STARTERS = frozenset(_STARTERS_TEXT.split())


@dataclass(frozen=True)
class Placed:
    """A written word and the separator after it, one of `phones.SEPARATORS`."""

    word: Written
    separator: str = SPACE


@dataclass(frozen=True)
class Phrase:
    """Words to plan at once. before, after: their neighbours, planned along for the tone and spoken with other phrases.
    pause: seconds of silence asked for after it; there may be no words at all before it."""

    words: tuple[Placed, ...]
    before: tuple[Placed, ...] = ()
    after: tuple[Placed, ...] = ()
    pause: float = 0.0

    @property
    def rate(self) -> float:
        return self.words[0].word.rate if self.words else 1.0


class Splitter:
    """`add` words and breaks one by one, `finish`; both return the phrases that are now certain."""

    def __init__(self) -> None:
        self._words: list[Placed] = []
        self._undecided = False  # whether the last word ends a sentence or a clause depends on the next one
        self._before: tuple[Placed, ...] = ()
        self._emitted = 0

    def add(self, item: Item) -> list[Phrase]:
        if isinstance(item, Break):
            return self._break(item)
        out: list[Phrase] = []
        if item.fresh:
            out += self._end_sentence()
        out += self._decide(item)
        mark, undecided = separator(item)
        if not _speakable(item):
            self._strengthen(mark)
            return out + self._rest()
        if item.text.lstrip("\"'“‘").startswith("("):
            self._strengthen(",")
        if self._words and self._words[-1].word.rate != item.rate:
            out += self._cut(len(self._words))
        self._words.append(Placed(item, mark))
        self._undecided = undecided
        return out + self._rest()

    def finish(self) -> list[Phrase]:
        """The text ends here, be it in the middle of a sentence."""
        return self._end_sentence()

    def _break(self, item: Break) -> list[Phrase]:
        out = self._end_sentence() if item.sentence else self._cut(len(self._words))
        if item.seconds:
            self._before = ()
            out = [*out[:-1], replace(out[-1], pause=item.seconds)] if out else [Phrase((), pause=item.seconds)]
        return out

    def _end_sentence(self) -> list[Phrase]:
        if self._words and self._words[-1].separator == SPACE:
            self._words[-1] = replace(self._words[-1], separator=".")
        self._undecided = False
        out = self._cut(len(self._words))
        self._before = ()
        return out

    def _decide(self, following: Written) -> list[Phrase]:
        """What the last word's dot or comma was, now that the next word is known."""
        if not self._undecided:
            return []
        self._undecided = False
        last = self._words[-1]
        start = following.text.lstrip(_OPENING)[:1]
        if self._inside_date(following) if last.separator == "," else not start.isupper():
            self._words[-1] = replace(last, separator=SPACE)
            return []
        return self._rest()

    def _inside_date(self, following: Written) -> bool:
        """Whether the last word is the day of a month, and the next one the year."""
        month, day = [Placed(Written("")), *self._words][-2:]
        name = month.word.text.lstrip(_OPENING).rstrip(".").lower()
        named = len(name) >= 3 and any(full.startswith(name) for full in MONTHS)
        year = re.match(r"[12]\d{3}\b", following.text.lstrip(_OPENING))
        return named and year is not None and day.word.rate == following.rate

    def _strengthen(self, mark: str) -> None:
        """Punctuation that stands alone belongs to the word before it."""
        if self._words and _STRENGTH[mark] > _STRENGTH[self._words[-1].separator]:
            self._words[-1] = replace(self._words[-1], separator=mark)

    def _rest(self) -> list[Phrase]:
        """The phrase that ends with the last word, or that is long enough to be cut before it; none or one."""
        if not self._words:
            return []
        limit, clause = LIMITS[min(self._emitted, len(LIMITS) - 1)]
        size = sum(map(_size, self._words))
        if not self._undecided:
            mark = self._words[-1].separator
            if mark in _ENDS or (mark != SPACE and size >= clause):
                return self._cut(len(self._words))
        return self._cut(self._place(limit)) if size >= limit else []

    def _place(self, limit: int) -> int:
        """How many words to cut off, at least one staying; 0 where all that could be parted belongs together."""
        sizes = [_size(placed) for placed in self._words]
        best, place = 0, 0
        for k in range(1, len(self._words)):
            if 2 * sum(sizes[:k]) <= limit:
                continue
            bond = _bond(self._words[k - 1], self._words[k])
            if bond >= best:
                best, place = bond, k
        return place if place or sum(sizes) < 3 * limit else len(self._words) - 1

    def _cut(self, count: int) -> list[Phrase]:
        if not count:
            return []
        words, rest = tuple(self._words[:count]), self._words[count:]
        before = self._before if self._before and self._before[-1].word.rate == words[0].word.rate else ()
        runs_on = words[-1].separator in (SPACE, ",")
        after = _nearest(tuple(rest)) if runs_on else ()
        self._before = _nearest((before + words)[::-1])[::-1] if runs_on else ()
        self._words = rest
        self._undecided = self._undecided and bool(rest)
        self._emitted += 1
        return [Phrase(words, before, after)]


def separator(word: Written) -> tuple[str, bool]:
    """The separator that a word's own punctuation makes, and whether the next word may still change it to a space."""
    text = word.text.rstrip(_CLOSING)
    core = text.rstrip(".?!,;:…—–-" + _CLOSING)
    marks = text[len(core) :]
    if not marks:
        return ("," if ")" in word.text[len(text) :] else SPACE), False
    for mark in "?!":
        if mark in marks:
            return mark, False
    if "…" in marks or ".." in marks:
        return ";", False
    if "." in marks:
        return _dot(core)
    if re.search("[;:—]|--", marks) or marks == "–":
        return ";", False
    return (",", bool(_DAY.search(core))) if "," in marks else (SPACE, False)


def _dot(core: str) -> tuple[str, bool]:
    bare = core.lstrip("\"'“‘([").lower()
    if bare in _NEVER_END:
        return SPACE, False
    if bare in _MAY_END or ("." in bare and not any(map(str.isdigit, bare))):
        return ".", True
    if len(bare) == 1 and core[-1].isupper() and bare != "i":  # an initial
        return SPACE, False
    return ".", False


def _speakable(word: Written) -> bool:
    """Whether there is anything to say in it."""
    said = word.text if word.said is None else word.said
    return bool(word.phones or re.search("[A-Za-z0-9]", said) or normalize(said))


def _size(placed: Placed) -> int:
    """About how many words it takes to say."""
    word = placed.word
    return max(1, len(re.findall(r"\d|[^\W\d_]+(?:['’][^\W\d_]+)*", word.said or word.text)))


def _nearest(words: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """The first few, that can be planned once more at little cost."""
    near = words[:CONTEXT]
    return near[: sum(size <= CONTEXT_SIZE for size in accumulate(map(_size, near)))]


def _bond(left: Placed, right: Placed) -> int:
    """How little two neighbours hold together; -1 where they must not be parted (numbers, titles)."""
    if left.separator == SPACE and re.search(r"[\d$£€#.]", left.word.text + right.word.text[:1]):
        return -1
    points = 4 if left.separator != SPACE else 2
    points -= 2 * (left.word.text.lower() in _BINDERS)
    return points + (right.word.text.lower().rstrip(",.") in _STARTERS)
