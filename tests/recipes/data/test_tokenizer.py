"""The tokenizer trainer: its size, nothing unknown, and decoding gives back what was encoded."""

from __future__ import annotations

import itertools
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.tokenizer import ALPHABET, read_tokenizer, train_tokenizer, training_sentences
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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """text/ with two corpora, speech/ with a transcript to train on and one to measure."""
    for name, words in (("tatoeba_en", "low high near far"), ("snips_queries", "play stop start loud")):
        (tmp_path / "text").mkdir(exist_ok=True)
        lines = [" ".join(x) for x in itertools.product(words.split(), repeat=3)]
        (tmp_path / "text" / f"{name}.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    (tmp_path / "speech" / "one").mkdir(parents=True)
    said = [Utterance(tmp_path / "a", 1, 16000, "s", split, text)
            for split, text in (("train", "Hello there"), ("dev", "low low low"))]
    manifest.write(tmp_path / "speech" / "one" / manifest.NAME, said)
    return tmp_path


def test_the_draw_repeats_itself_and_a_line_more_changes_about_a_line(data: Path) -> None:
    before = training_sentences(data / "text", data / "speech", 60, 0)
    assert before == training_sentences(data / "text", data / "speech", 60, 0)
    assert "hello there" in before
    assert "low low low" not in before
    file = data / "text" / "tatoeba_en.txt.xz"
    file.write_bytes(lzma.compress(b"a new line\n" + lzma.decompress(file.read_bytes())))
    after = training_sentences(data / "text", data / "speech", 60, 0)
    assert len(set(before) ^ set(after)) <= 2
    assert set(before) != set(training_sentences(data / "text", data / "speech", 60, 1))


def test_the_command_writes_the_same_file_in_another_process(data: Path) -> None:
    files = []
    for hashing in ("1", "2"):  # what Python shuffles between processes
        words = ["--text-dir", data / "text", "--speech-dir", data / "speech", "--out", data / hashing, "--size", "40"]
        subprocess.run([sys.executable, "-P", "-m", "vivavoce.recipes.data.tokenizer", *map(str, words)], check=True,
                       env=os.environ | {"PYTHONHASHSEED": hashing})
        files.append((data / hashing / "tokenizer-40.json").read_bytes())
    assert files[0] == files[1]


def test_a_file_that_is_none_says_what_makes_one(tmp_path: Path) -> None:
    for name, text in {"gone.json": None, "other.json": "{}"}.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(BadConfig, match=rf"{name}: not a tokenizer .*; `vivavoce data tokenizer` makes one"):
            read_tokenizer(tmp_path / name)


def test_fewer_pieces_than_letters_are_refused() -> None:
    with pytest.raises(BadConfig, match="the letters alone are 28"):
        train_tokenizer(SENTENCES, 27)
