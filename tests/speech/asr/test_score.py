"""Word and character errors, by kind."""

import math

import pytest

from vivavoce.speech.asr.score import Errors, count_errors, interval, score, total


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", Errors(0, 0, 0, 3)),
        ("a b c", "a x c", Errors(1, 0, 0, 3)),
        ("a b c", "a c", Errors(0, 1, 0, 3)),
        ("a b c", "a b q c d", Errors(0, 0, 2, 3)),
        ("", "made up words", Errors(0, 0, 3, 0)),
        ("all of it lost", "", Errors(0, 4, 0, 4)),
    ],
)
def test_words_are_counted_by_kind(reference: str, hypothesis: str, expected: Errors) -> None:
    assert count_errors(reference.split(), hypothesis.split()) == expected


def test_both_sides_are_normalised() -> None:
    assert score("Hello, World!", "hello world").words.rate == 0


def test_rates_are_over_the_whole_set_not_a_mean_of_rates() -> None:
    both = total([score("one", "two"), score("a b c d e f g h i", "a b c d e f g h i")])
    assert both.words.rate == pytest.approx(0.1)


def test_words_made_up_on_silence_are_infinitely_wrong() -> None:
    assert math.isinf(score("", "hello").words.rate)
    assert score("", "").words.rate == 0


def test_the_interval_holds_the_rate_and_narrows_with_more_groups() -> None:
    groups = [Errors(substituted=i % 3, total=4) for i in range(30)]
    low, high = interval(groups)
    rate = sum(groups, Errors()).rate
    assert 0 < low < rate < high < 1
    few_low, few_high = interval(groups[:9])
    assert high - low < few_high - few_low
    assert interval(groups) == (low, high)  # the seed decides
    assert interval([Errors(1, 0, 0, 4)] * 5) == (0.25, 0.25)


@pytest.mark.parametrize("groups", [[], [Errors(1, 0, 0, 3)], [Errors(0, 0, 2, 0)] * 3])
def test_too_little_says_nothing_about_others(groups: list[Errors]) -> None:
    assert interval(groups) == (0.0, math.inf)
