"""The clock: integer samples inside, and the delay a lookahead costs."""

from __future__ import annotations

import pytest

from vivavoce.streaming.clock import OFFLINE, Clock
from vivavoce.streaming.errors import BadLookahead

CLOCK = Clock()


@pytest.mark.parametrize("lookahead", range(70))
def test_the_worst_delay_is_a_chunk_and_half_a_window(lookahead: int) -> None:
    assert CLOCK.ms(CLOCK.worst_delay(lookahead)) == (lookahead + 1) * 80 + 12.5


@pytest.mark.parametrize("lookahead", range(70))
def test_every_lookahead_survives_a_trip_through_milliseconds(lookahead: int) -> None:
    assert CLOCK.lookahead_ms(lookahead) == lookahead * 80
    assert CLOCK.lookahead_frames(CLOCK.lookahead_ms(lookahead)) == (lookahead, "")
    assert CLOCK.lookahead_frames(str(lookahead * 80)) == (lookahead, "")


@pytest.mark.parametrize(("asked", "frames", "given"), [
    (79.9, 0, "0"), (85, 1, "80"), ("100", 1, "80"), (159.5, 1, "80"), (5519, 68, "5440"), ("0.5", 0, "0"),
])
def test_a_value_between_two_rounds_down_and_says_so(asked: float | str, frames: int, given: str) -> None:
    assert CLOCK.lookahead_frames(asked) == (frames, f"lookahead {float(asked):g} ms is rounded down to {given} ms")


def test_offline_is_the_longest_chunk() -> None:
    assert CLOCK.lookahead_frames("offline") == (OFFLINE, "")
    assert CLOCK.ms(CLOCK.chunk_samples(OFFLINE)) == 5600


@pytest.mark.parametrize("wrong", [-1, 5521, "soon", "", "nan", float("inf"), "-80"])
def test_anything_else_is_refused_with_the_range(wrong: float | str) -> None:
    with pytest.raises(BadLookahead, match=r"is not `offline` or a number of ms from 0 to 5520"):
        CLOCK.lookahead_frames(wrong)


def test_positions_are_samples_and_become_seconds_at_the_end() -> None:
    assert [CLOCK.frame_sample(t) for t in (0, 1, 100)] == [0, 1280, 128_000]
    assert CLOCK.seconds(24_000) == 1.5
    assert CLOCK.seconds(10 * 3600 * 16_000 + 4) == 36_000.00025


def test_another_grid_counts_in_its_own_samples() -> None:
    clock = Clock(rate=24_000, frame=960, reach=300)
    assert clock.ms(clock.worst_delay(1)) == 92.5
    assert clock.lookahead_frames(85) == (2, "lookahead 85 ms is rounded down to 80 ms")
