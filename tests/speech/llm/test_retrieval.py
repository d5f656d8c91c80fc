"""Ready answers: found by what was meant to be said, not found for anything else, and the same after a reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.llm.retrieval import FILE, Exchange, Replies, words

TALK = [
    Exchange(("hello", "good morning"), ("Hello!", "Hi!")),
    Exchange(("how are you", "how do you feel"), ("Well.",)),
    Exchange(("what is your name", "who are you"), ("Viva.",)),
    Exchange(("what is the biggest whale in the sea",), ("The blue one.",)),
    Exchange(("how are you",), ("Later.",)),
]


def reply(text: str, **options: object) -> str | None:
    found = Replies(TALK).find(text, **options)  # type: ignore[arg-type]
    return found and found.reply


def test_the_same_words_are_found_however_they_are_written() -> None:
    for text in ("what's your name", "What is your name?", "Uh, what is your name", "WHAT IS YOUR NAME!"):
        assert reply(text) == "Viva."
    assert Replies(TALK).find("Hey!").likeness == pytest.approx(1.0)  # type: ignore[union-attr]


def test_other_questions_are_left_to_the_model() -> None:
    for text in ("", "?!", "zebra", "what is the smallest island in the world", "where are my keys", "your"):
        assert reply(text) is None


def test_one_word_more_still_matches_a_long_sentence() -> None:
    assert reply("what is the biggest whale in the whole sea") == "The blue one."
    assert reply("what is the biggest whale in the whole sea", sure=0.99) is None


def test_the_first_of_equals_answers_and_says_something_new_where_it_can() -> None:
    assert reply("how are you") == "Well."
    assert [reply("hello", avoid=said) for said in ([], ["Hello!"], ["Hello!", "Hi!"])] == ["Hello!", "Hi!", "Hello!"]


def test_likeness_lies_between_nothing_and_one() -> None:
    for text in ("how are you today", "who are you then", "good morning whale"):
        found = Replies(TALK).find(text, sure=0.0)
        assert found is not None
        assert 0 <= found.likeness <= 1


def test_they_survive_being_written(tmp_path: Path) -> None:
    Replies(TALK).save(tmp_path / FILE)
    again = Replies.load(tmp_path / FILE)
    assert again.exchanges == TALK
    assert again.find("who are you") == Replies(TALK).find("who are you")


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(BadCheckpoint, match=FILE):
        Replies.load(tmp_path / FILE)
    with pytest.raises(BadCheckpoint, match="elsewhere"):
        Replies.load(tmp_path / "elsewhere")


def test_words_are_plain_and_fillers_leave_unless_they_are_all() -> None:
    assert words("Um, I'm the one!") == ["i", "am", "one"]
    assert words("Oh, well.") == ["oh", "well"]
