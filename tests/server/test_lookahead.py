"""Adapting the lookahead to how clear the words come."""

from __future__ import annotations

from vivavoce.server.lookahead import LADDER, RECENT, Lookahead
from vivavoce.speech.asr.words import Word


def words(confidence: float, count: int = RECENT) -> list[Word]:
    return [Word("so", 0, 800, confidence)] * count


def test_it_is_what_was_asked_unless_it_may_adapt() -> None:
    lookahead = Lookahead()
    lookahead.set(3, False)
    lookahead.heard(words(0.1))
    assert lookahead.frames == 3


def test_it_climbs_while_words_are_unclear_and_comes_back_to_what_was_asked() -> None:
    lookahead = Lookahead()
    lookahead.set(1, True)
    seen = []
    for confidence in [0.3] * 3 + [0.7] + [0.95] * 3:
        lookahead.heard(words(confidence))
        seen.append(lookahead.frames)
    assert seen == [6, 13, 13, 13, 6, 1, 1]
    assert seen[1] == LADDER[-1]


def test_a_few_words_decide_nothing() -> None:
    lookahead = Lookahead()
    lookahead.set(0, True)
    lookahead.heard(words(0.1, RECENT - 1))
    assert lookahead.frames == 0
    lookahead.heard(words(0.1, 1))
    assert lookahead.frames == 1
