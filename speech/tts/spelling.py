"""How a word might be said, guessed from its letters: what is left when no dictionary and no espeak-ng knows it.

Longest group of letters first, the rules most English words follow; better than silence, no more. `pronounce` asks.
"""

from __future__ import annotations

import re

LETTERS = {
    "a": "EY1", "b": "B IY1", "c": "S IY1", "d": "D IY1", "e": "IY1", "f": "EH1 F", "g": "JH IY1", "h": "EY1 CH",
    "i": "AY1", "j": "JH EY1", "k": "K EY1", "l": "EH1 L", "m": "EH1 M", "n": "EH1 N", "o": "OW1", "p": "P IY1",
    "q": "K Y UW1", "r": "AA1 R", "s": "EH1 S", "t": "T IY1", "u": "Y UW1", "v": "V IY1",
    "w": "D AH1 B AH0 L Y UW0", "x": "EH1 K S", "y": "W AY1", "z": "Z IY1",
}  # fmt: skip
# vowels without stress; the first one of a word gets it
_GROUPS = {
    "tion": "SH AH N", "sion": "ZH AH N", "ture": "CH ER", "ough": "AO", "augh": "AO", "eigh": "EY", "igh": "AY",
    "tch": "CH", "dge": "JH", "sch": "SH", "oor": "AO R", "eer": "IH R", "ear": "IH R", "air": "EH R", "our": "AO R",
    "ch": "CH", "sh": "SH", "th": "TH", "ph": "F", "wh": "W", "ck": "K", "ng": "NG", "qu": "K W", "gh": "G", "kn": "N",
    "wr": "R", "ee": "IY", "ea": "IY", "oo": "UW", "ou": "AW", "ow": "OW", "oi": "OY", "oy": "OY", "ai": "EY",
    "ay": "EY", "au": "AO", "aw": "AO", "oa": "OW", "ie": "IY", "ei": "IY", "ey": "IY", "ew": "Y UW", "ue": "UW",
    "ar": "AA R", "er": "ER", "ir": "ER", "or": "AO R", "ur": "ER", "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH",
    "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P",
    "q": "K", "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V", "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
_LONG = {"a": "EY", "i": "AY", "o": "OW", "u": "UW", "e": "IY"}
_TOKEN = re.compile("|".join(sorted(_GROUPS, key=len, reverse=True)))
_MAGIC_E = re.compile(r"(?<![aeiou])([aeiou])([bdfgklmnpstvz])e(?=s?$)")


def guess(word: str) -> tuple[str, ...]:
    """ARPAbet phones of a lower-case word of a-z; letter by letter where it has no vowel."""
    letters = "".join(c for c in word if c in LETTERS)
    if not re.search("[aeiouy]", letters):
        return spell(letters)
    letters = re.sub(r"([bdfgklmnprstz])\1", r"\1", re.sub(r"c(?=[eiy])", "s", letters))
    sounds: list[str] = []
    for part in re.split(r"([aeiou][bdfgklmnpstvz]e(?=s?$))", letters):
        if _MAGIC_E.fullmatch(part):
            sounds += [_LONG[part[0]], _GROUPS[part[1]]]
        else:
            sounds += [_GROUPS[group] for group in _TOKEN.findall(part)]
    phones = " ".join(sounds).split()
    first = next((i for i, phone in enumerate(phones) if phone[0] in "AEIOU"), -1)
    return tuple(f"{p}{int(i == first)}" if p[0] in "AEIOU" else p for i, p in enumerate(phones))


def spell(letters: str) -> tuple[str, ...]:
    """The names of letters."""
    return tuple(phone for letter in letters for phone in LETTERS[letter].split())
