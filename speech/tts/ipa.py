"""Phonemes as people and espeak-ng write them, as ARPAbet: `phones_of` reads both ARPAbet and IPA.

Sounds English does not have become the nearest one it has. `ssml` and `pronounce` hand it what they were given.
"""

from __future__ import annotations

import re
import unicodedata

from vivavoce.speech.errors import BadSpeech

from .phones import PHONES, VOWELS

# longest first wins; a vowel is named without its stress
_SOUNDS = {
    "aɪ": "AY", "aʊ": "AW", "eɪ": "EY", "oʊ": "OW", "əʊ": "OW", "ɔɪ": "OY", "oɪ": "OY", "ɪə": "IH R", "eə": "EH R",
    "ʊə": "UH R", "ɛə": "EH R", "tʃ": "CH", "dʒ": "JH", "ts": "T S", "dz": "D Z", "ju": "Y UW", "ɜɹ": "ER", "əɹ": "ER",
    "ɝ": "ER", "ɚ": "ER", "ɜ": "ER", "ɑ": "AA", "ɒ": "AA", "a": "AA", "æ": "AE", "ʌ": "AH", "ɐ": "AH", "ə": "AH",
    "ɘ": "AH", "ɔ": "AO", "o": "OW", "ɛ": "EH", "e": "EH", "œ": "ER", "ø": "ER", "ɪ": "IH", "ᵻ": "IH", "ɨ": "IH",
    "i": "IY", "y": "UW", "ʊ": "UH", "ʏ": "UH", "u": "UW", "ʉ": "UW", "ɯ": "UW", "ɤ": "AH", "ɵ": "ER",
    "b": "B", "β": "V", "d": "D", "ɖ": "D", "ð": "DH", "f": "F", "ɸ": "F", "ɡ": "G", "g": "G", "ɣ": "G", "ɢ": "G",
    "h": "HH", "ɦ": "HH", "ħ": "HH", "ç": "HH", "k": "K", "x": "K", "χ": "K", "q": "K", "c": "K", "l": "L", "ɫ": "L",
    "ɭ": "L", "ɬ": "L", "ʎ": "L Y", "m": "M", "ɱ": "M", "n": "N", "ɳ": "N", "ɲ": "N Y", "ŋ": "NG", "p": "P", "ɹ": "R",
    "r": "R", "ɻ": "R", "ʁ": "R", "ʀ": "R", "ɾ": "T", "s": "S", "ʂ": "SH", "ʃ": "SH", "ɕ": "SH", "t": "T", "ʈ": "T",
    "ʔ": "T", "θ": "TH", "v": "V", "ʋ": "V", "w": "W", "ʍ": "W", "ɥ": "W", "j": "Y", "ʝ": "Y", "z": "Z", "ʐ": "ZH",
    "ʒ": "ZH", "ʑ": "ZH",
}  # fmt: skip
_STRESS = {"ˈ": "1", "'": "1", "ˌ": "2", ",": "2"}
_SYLLABIC = "\u0329"
_IGNORED = "ːˑ.|‖ ͡‿͜/[]-\u200d"
_TOKEN = re.compile("|".join(sorted(map(re.escape, _SOUNDS), key=len, reverse=True)) + r"|(?s:.)")
_VOWEL_NAMES = {vowel[:-1] for vowel in VOWELS}
_ALL = frozenset(PHONES)


def phones_of(phonemes: str) -> tuple[str, ...]:
    """ARPAbet phones of phonemes in either alphabet: `V IY1 V AH0`, stress optional, or `ˈvivə`.

    Raises BadSpeech for what is neither, and for nothing.
    """
    return from_arpabet(phonemes) or from_ipa(phonemes)


def from_arpabet(phonemes: str) -> tuple[str, ...]:
    """The phones, none where this is not ARPAbet."""
    words = phonemes.upper().split()
    known = phonemes.isascii() and all(word in _ALL or word in _VOWEL_NAMES for word in words)
    return tuple(_stressed(words)) if known else ()


def _stressed(words: list[str]) -> list[str]:
    """Vowels that were given no stress: the first is stressed, unless another one says that it is."""
    missing = "0" if any(word[-1] in "12" for word in words) else "1"
    out = []
    for word in words:
        bare = word in _VOWEL_NAMES
        out.append(word + missing if bare else word)
        missing = "0" if bare else missing
    return out


def from_ipa(ipa: str) -> tuple[str, ...]:
    """ARPAbet phones of a word in IPA. Raises BadSpeech for a letter that is not IPA, and for no sound at all."""
    phones: list[str] = []
    stress = ""
    for token in _TOKEN.findall(_plain(ipa)):
        if token in _STRESS:
            stress = _STRESS[token]
        elif token == _SYLLABIC and phones:
            phones.insert(len(phones) - 1, "AH0")
        elif token in _SOUNDS:
            for phone in _SOUNDS[token].split():
                if phone in _VOWEL_NAMES:
                    unstressed = "0" if token in "əɐɚᵻɘɨ" or any(p[-1].isdigit() for p in phones) or stress else "1"
                    phone, stress = phone + (stress or unstressed), ""
                if phone != "R" or phones[-1:] != ["R"]:  # espeak-ng: one ɹ of the vowel, one of the next syllable
                    phones.append(phone)
        elif token not in _IGNORED:
            raise BadSpeech(f"{token!r} in {ipa!r} is neither ARPAbet (V IY1 V AH0) nor IPA (ˈvivə)")
    if not phones:
        raise BadSpeech(f"{ipa!r} has no phoneme; write ARPAbet (V IY1 V AH0) or IPA (ˈvivə)")
    return tuple(phones)


def _plain(ipa: str) -> str:
    """Without lengths, ties and what only shades a sound; nasal and other marks above or below letters vanish."""
    decomposed = unicodedata.normalize("NFD", ipa.strip().replace("ç", "ħ"))
    kept = "".join(c for c in decomposed if c == _SYLLABIC or not unicodedata.combining(c))
    return "".join(c for c in kept if c in "ˈˌ" or (c not in _IGNORED and unicodedata.category(c) not in ("Lm", "Sk")))
