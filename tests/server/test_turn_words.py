"""Words decide: whether a turn is over, and whether it interrupts."""

from __future__ import annotations

import pytest

from vivavoce.server.turn_words import completeness, interrupts, is_backchannel, words_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what time is it", "complete"),
        ("yes", "complete"),
        ("that would be all thank you", "complete"),
        ("It is late.", "complete"),
        ("i would like to", "unfinished"),
        ("well um", "unfinished"),
        ("turn on the", "unfinished"),
        ("we went home", "open"),
        ("", "open"),
    ],
)
def test_the_last_words_say_whether_more_is_to_come(text: str, expected: str) -> None:
    assert completeness(text) == expected


@pytest.mark.parametrize("text", ["", "mm-hm", "Uh-huh.", "yeah yeah", "i see", "okay right"])
def test_who_only_listens_does_not_interrupt(text: str) -> None:
    assert is_backchannel(text)
    assert not interrupts(text)


@pytest.mark.parametrize("text", ["stop", "wait a moment", "no that is wrong", "where is the station"])
def test_who_wants_the_floor_gets_it(text: str) -> None:
    assert not is_backchannel(text)
    assert interrupts(text)


def test_what_may_still_become_a_sign_of_listening_waits() -> None:
    assert not interrupts("", "i")
    assert not interrupts("i", "see")
    assert interrupts("i", "see a problem")


def test_one_word_that_may_change_is_not_enough() -> None:
    assert not interrupts("", "station")
    assert interrupts("", "the station")


def test_words_are_compared_without_case_and_marks() -> None:
    assert words_of("Don’t STOP, mm-hm!") == ["don't", "stop", "mm-hm"]
