"""The tokenizer trainer: its size, nothing unknown, and decoding gives back what was encoded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from vivavoce.recipes.data.tokenizer import ALPHABET, train_tokenizer
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.text import normalize

SENTENCES = ["the cat sat on the mat", "the rat and the hat", "that is what the cat said"]
TOKENIZER = train_tokenizer(SENTENCES, 40)


@given(st.text(max_size=50))
def test_any_normalised_text_comes_back(text: str) -> None:
    words = normalize(text)
    assert TOKENIZER.decode(TOKENIZER.encode(words).ids) == words


def test_it_has_the_size_asked_and_learns_what_is_frequent(tmp_path: Path) -> None:
    assert TOKENIZER.get_vocab_size() == 40
    assert "▁the" in TOKENIZER.get_vocab()
    assert set(ALPHABET) <= set(TOKENIZER.get_vocab())
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert loaded.encode("that cat").tokens == TOKENIZER.encode("that cat").tokens


def test_words_begin_with_the_mark_and_pieces_never_cross_words() -> None:
    for piece in TOKENIZER.get_vocab():
        assert "▁" not in piece[1:]
    assert TOKENIZER.encode("zebra").tokens[0].startswith("▁")


def test_fewer_pieces_than_letters_are_refused() -> None:
    with pytest.raises(BadConfig, match="the letters alone are 28"):
        train_tokenizer(SENTENCES, 27)
