"""Words guessed from their letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech.tts.phones import encode
from vivavoce.speech.tts.spelling import guess, spell


@pytest.mark.parametrize(("word", "phones"), [
    ("cake", "K EY1 K"), ("night", "N AY1 T"), ("nation", "N AE1 SH AH0 N"), ("chips", "CH IH1 P S"),
    ("cellar", "S EH1 L AA0 R"), ("xkcd", "EH1 K S K EY1 S IY1 D IY1"),
])  # fmt: skip
def test_the_rules_most_words_follow(word: str, phones: str) -> None:
    assert " ".join(guess(word)) == phones


def test_letters_have_names() -> None:
    assert " ".join(spell("abw")) == "EY1 B IY1 D AH1 B AH0 L Y UW0"


@given(st.text("abcdefghijklmnopqrstuvwxyz'", max_size=30))
def test_any_word_gives_known_phones_with_one_stress_at_most_unless_spelled(word: str) -> None:
    phones = guess(word)
    encode(phones)
    assert bool(phones) == bool(word.strip("'"))
    if set(word) & set("aeiouy"):
        assert sum(phone.endswith("1") for phone in phones) <= 1
