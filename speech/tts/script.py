"""A phrase as a voice reads it: its written words as spoken ones, and those as phones.

`script` takes a phrase of `phrases` and returns the symbols to plan, with the place of every written word among them,
which becomes its time once the voice has given each symbol a duration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby

from vivavoce.speech.text import normalize

from .phones import SPACE
from .phrases import Phrase, Placed, Splitter, separator
from .pronounce import dictionary, pronounce
from .spelling import LETTERS
from .ssml import Reader

_MOST = 10  # written words that are read as one thing: "the 2nd of May, 1999"
_SPELLED = {"US", "AI", "IT", "ID", "AM", "PM", "EU", "UN", "PC", "TV", "CD", "DVD", "OS", "IQ"}
_ALSO_WORDS = {"US", "IT", "AM"}  # no abbreviations among other words in capitals
_CAPITALS = re.compile(r"\b([A-Z]{2,6})(s?)\b(?!['’](?!S\b)[A-Z])")  # DIDN'T is a word in capitals


@dataclass(frozen=True)
class WordSpan:
    """symbols[first:end] of a script say this piece of the text: a word, or several read as one ("May 2nd, 1999,")."""

    text: str
    first: int
    end: int


@dataclass(frozen=True)
class Script:
    """symbols: the phrase in its context, laid out as `phones` says; symbols[begin:end] is the phrase itself, and
    `words` are its words."""

    symbols: tuple[str, ...]
    words: tuple[WordSpan, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class _Reading:
    """Written words and what is said for them: spoken words, or phones given in the text."""

    text: str
    spoken: tuple[str, ...]
    letters: tuple[bool, ...]
    phones: tuple[str, ...]
    separator: str


def read(text: str) -> Script:
    """A whole text as one script, whatever its length, for training and for aligning recordings. It ends with the
    separator that is written there, a space where there is none. Raises BadSpeech."""
    reader, splitter = Reader(), Splitter()
    phrases = [phrase for item in (*reader.push(text), *reader.finish()) for phrase in splitter.add(item)]
    words = [placed for phrase in [*phrases, *splitter.finish()] for placed in phrase.words]
    if words:
        words[-1] = Placed(words[-1].word, separator(words[-1].word)[0])
    return script(Phrase(tuple(words)))


def script(phrase: Phrase) -> Script:
    """The symbols to plan, in context, and where the words of the phrase are in them."""
    parts = (phrase.before, phrase.words, phrase.after)
    capitals = _all_capitals([placed.word.text for part in parts for placed in part])
    before, inside, after = (_readings(part, capitals) for part in parts)
    everything = [*before, *inside, *after]
    phones = iter(pronounce([word for reading in everything for word in reading.spoken],
                            [letter for reading in everything for letter in reading.letters]))
    symbols: list[str] = []
    words: list[WordSpan] = []
    begin = end = 0
    for i, reading in enumerate(everything):
        begin = len(symbols) if i == len(before) else begin
        said = [reading.phones] if reading.phones else [next(phones) for _ in reading.spoken]
        first = len(symbols)
        for word in said:
            symbols += [*word, SPACE]
        symbols[-1] = reading.separator
        if len(before) <= i < len(before) + len(inside):
            words.append(WordSpan(reading.text, first, len(symbols) - 1))
            end = len(symbols)
    return Script(tuple(symbols), tuple(words), begin, end)


def _readings(words: Sequence[Placed], capitals: bool) -> list[_Reading]:
    out: list[_Reading] = []
    for plain, run in groupby(words, key=lambda placed: placed.word.said is None and not placed.word.phones):
        part = list(run)
        out += _plain(part, capitals, first=not out) if plain else [r for placed in part for r in _given(placed)]
    return out


def _given(placed: Placed) -> Iterator[_Reading]:
    """A word whose reading or phones stand in the text."""
    word = placed.word
    said = "" if word.phones else _spell(word.said or "")
    spoken, capitals = tuple(normalize(said).split()), said.split()
    if spoken or word.phones:
        letters = tuple(len(s) == 1 and (s != "a" or "A" in capitals) for s in spoken)
        yield _Reading(word.text, spoken, letters, word.phones, placed.separator)


def _plain(words: list[Placed], capitals: bool, first: bool) -> Iterator[_Reading]:
    """Words as they stand; those that are only read right together (dates, amounts) as one."""
    texts = _spell_all([placed.word.text for placed in words], capitals)
    at = 0
    for count, spoken in _groups(texts):
        text = " ".join(placed.word.text for placed in words[at : at + count])
        article = spoken in (("a",), ()) and (text.lower() == text or (first and at == 0))
        letters = tuple(len(s) == 1 and not article and (s != "a" or len(spoken) == 1 or _lettered(spoken))
                        for s in spoken)
        at += count
        if spoken:
            yield _Reading(text, spoken, letters, (), words[at - 1].separator)


def _lettered(spoken: Sequence[str]) -> bool:
    """Whether the words spell something out: more than one of them is a letter, the last perhaps more than once."""
    return sum(len(word.removesuffix("'s")) == 1 for word in spoken) > 1


def _spell_all(texts: list[str], capitals: bool) -> list[str]:
    """The words of a phrase, spelled where they are to be. capitals: all around is in capitals."""
    if sum(text.isupper() and len(text) > 3 for text in texts) > 2:  # shouting
        return texts
    out = []
    for i, text in enumerate(texts):
        among = i > 0 and _is_capitals(texts[i - 1]) and (i + 1 == len(texts) or texts[i + 1].isupper())
        out.append(_spell(text, but=_ALSO_WORDS if capitals or among else frozenset()))
    return out


def _all_capitals(texts: list[str]) -> bool:
    """Whether nothing is in small letters, and not because all of it is abbreviations."""
    return not any(c.islower() for text in texts for c in text) and any(map(_is_capitals, texts))


def _is_capitals(text: str) -> bool:
    """Whether this is a word in capitals, and no abbreviation, not even one that the dictionary has (UK, FBI)."""
    letters = re.sub("[^a-z]", "", text.lower())
    named = "".join(LETTERS[letter] for letter in letters).replace(" ", "")
    said = dictionary().get(letters, "").replace(" ", "")
    by_letters = len(letters) > 1 and re.sub(r"\d", "", said) == re.sub(r"\d", "", named)
    return text.isupper() and _spell(text) == text and not by_letters


def _spell(text: str, but: Set[str] = frozenset()) -> str:
    """Capitals that are no word, parted: USB -> U S B. TVs -> T V's, which is said as TVs is. but: these stay."""
    def parted(m: re.Match[str]) -> str:
        capitals, plural = m.groups()
        word = capitals in but or (capitals not in _SPELLED and capitals.lower() in dictionary())
        return (capitals if word else " ".join(capitals)) + ("'s" if plural else "")

    return _CAPITALS.sub(parted, text)


def _groups(texts: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """How many texts are read together, and the words they are read as: as few at a time as agrees with the reading of
    them all."""
    whole = normalize(" ".join(texts)).split()
    each = [tuple(normalize(text).split()) for text in texts]
    if [word for words in each for word in words] == whole:
        return [(1, words) for words in each]
    dead: set[tuple[int, int]] = set()

    def search(i: int, at: int) -> list[tuple[int, tuple[str, ...]]] | None:
        if i == len(texts):
            return [] if at == len(whole) else None
        if (i, at) in dead:
            return None
        for count in range(1, min(_MOST, len(texts) - i) + 1):
            words = tuple(normalize(" ".join(texts[i : i + count])).split())
            if tuple(whole[at : at + len(words)]) == words and (rest := search(i + count, at + len(words))) is not None:
                return [(count, words), *rest]
        dead.add((i, at))
        return None

    return search(0, 0) or [(len(texts), tuple(whole))]
