"""What was heard: by the clock, by the client's word, and in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivavoce.server.playback import NS, Playback, Track
from vivavoce.server.signals import SpokenWord

MS = NS // 1000


def track(text: str = "", words: int = 0, each: int = 24_000) -> Track:
    made = Track("item", "resp", 1, text=text)
    made.place([SpokenWord(w, i * each, (i + 1) * each) for i, w in enumerate(text.split()[:words])])
    made.sent = words * each
    return made


def test_what_is_sent_is_played_in_real_time_and_in_order() -> None:
    playback, first, second = Playback(), track(), track()
    playback.push(first, 24_000, 0)
    playback.push(second, 24_000, 0)
    first.closed = True
    playback.advance(500 * MS)
    assert playback.taken() == [(1, 12_000)]
    playback.advance(1500 * MS)
    assert (first.played, second.played) == (24_000, 12_000)
    assert playback.taken() == [(1, 12_000), (1, 12_000)]
    assert first not in playback.tracks


def test_nothing_is_played_in_a_pause_or_while_there_is_nothing() -> None:
    playback, only = Playback(), track()
    playback.push(only, 24_000, 0)
    playback.advance(250 * MS)
    playback.paused = True
    playback.advance(9_000 * MS)
    playback.paused = False
    playback.advance(9_250 * MS)
    assert only.played == 12_000
    playback.advance(20_000 * MS)
    playback.push(only, 24_000, 30_000 * MS)
    playback.advance(30_500 * MS)
    assert only.played == 36_000


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_how_often_it_is_looked_at_changes_nothing(steps: list[int]) -> None:
    playback, only = Playback(), track()
    playback.push(only, 10**9, 0)
    now = 0
    for step in steps:
        now += step
        playback.advance(now)
    assert abs(only.played - now * 24_000 // NS) <= 1


def test_the_clients_word_goes_before_the_clock() -> None:
    playback, only = Playback(), track()
    playback.push(only, 24_000, 0)
    playback.advance(900 * MS)
    playback.acknowledge(only, 12_000, 900 * MS)
    assert only.played == 12_000
    assert playback.remaining() == 500 * MS
    playback.acknowledge(only, 10**9, 900 * MS)
    assert only.played == only.sent


def test_nothing_played_goes_untold_whoever_let_the_time_pass() -> None:
    playback, only = Playback(), track()
    playback.push(only, 24_000, 0)
    playback.push(only, 24_000, 250 * MS)
    playback.acknowledge(only, 9_000, 500 * MS)
    assert playback.taken() == [(1, 9_000)]
    playback.acknowledge(only, 6_000, 500 * MS)
    assert playback.taken() == []
    playback.advance(1000 * MS)
    assert playback.taken() == [(1, 9_000)]


def test_a_word_counts_as_heard_when_its_middle_was() -> None:
    cut = track("One, two three.", words=3)
    for limit, heard in [
        (0, ""),
        (12_000, "One,"),
        (35_999, "One,"),
        (36_000, "One, two"),
        (72_000, "One, two three."),
    ]:
        cut.limit = limit
        assert cut.heard == heard


def test_words_the_text_does_not_have_move_nothing() -> None:
    made = Track("item", "resp", 1, text="It costs $5 today.")
    made.place([SpokenWord(w, i * 100, i * 100 + 100) for i, w in enumerate(["It", "costs", "five", "today."])])
    made.sent, made.limit = 400, 260
    assert made.heard == "It costs"
    made.limit = 400
    assert made.heard == "It costs $5 today."


def test_without_word_times_the_share_heard_decides() -> None:
    made = track("one two three four")
    made.sent, made.closed = 1000, True
    made.cut(500)
    assert made.heard == "one two"
    made.cut(1000)
    assert made.heard == "one two three four"


def test_nothing_is_cut_beyond_what_was_sent() -> None:
    made = track("so it is", words=3)
    made.cut(10**9)
    assert made.limit == made.sent
