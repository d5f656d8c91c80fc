"""Phonemes as people write them, in either alphabet."""

from __future__ import annotations

import pytest

from vivavoce.speech.errors import BadSpeech
from vivavoce.speech.tts.ipa import from_arpabet, from_ipa, phones_of
from vivavoce.speech.tts.phones import encode


@pytest.mark.parametrize(("ipa", "phones"), [
    ("ˈvivə", "V IY1 V AH0"),
    ("vˈiːvə", "V IY1 V AH0"),  # as espeak-ng writes it: the mark stands before the vowel
    ("/təˈmɑːtəʊ/", "T AH0 M AA1 T OW0"),
    ("t͡ʃˈætbɑːt", "CH AE1 T B AA0 T"),
    ("bˈʌʔn̩", "B AH1 T AH0 N"),
    ("ˌɑːnəmˌæɾəpˈoʊiə", "AA2 N AH0 M AE2 T AH0 P OW1 IY0 AH0"),
    ("bˌiːˌɑːɹɹˌɑːɹ", "B IY2 AA2 R AA2 R"),
    ("lˈɑːx", "L AA1 K"),  # a sound that English does not have
    ("çaŋ", "HH AA1 NG"),
    ("ɑ̃", "AA1"),
    ("ə", "AH0"),
])  # fmt: skip
def test_ipa_becomes_arpabet(ipa: str, phones: str) -> None:
    assert " ".join(from_ipa(ipa)) == phones
    encode(phones_of(ipa))


@pytest.mark.parametrize(("arpabet", "phones"), [
    ("V IY1 V AH0", "V IY1 V AH0"),
    ("v iy v ah", "V IY1 V AH0"),
    ("P R AH OW1 JH", "P R AH0 OW1 JH"),
])  # fmt: skip
def test_arpabet_is_taken_with_stress_or_without(arpabet: str, phones: str) -> None:
    assert " ".join(phones_of(arpabet)) == phones


def test_words_are_no_arpabet() -> None:
    assert from_arpabet("see page") == ()
    assert from_arpabet("") == ()


@pytest.mark.parametrize("phonemes", ["", "  ", "ˈˌ", "123", "vi7və", "β·", "你好"])
def test_what_is_neither_is_an_error_that_quotes_it(phonemes: str) -> None:
    with pytest.raises(BadSpeech, match="ARPAbet"):
        phones_of(phonemes)
