"""The callers of the server's benchmark: what they send, what they count, and how their number is found."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from vivavoce.recipes.bench.callers import Caller, Level, candidates, frames_of, percentile


def found(holds: Callable[[int], bool], first: int, most: int) -> tuple[int, list[int]]:
    """What a ramp ends at, and the levels it tried."""
    levels: list[Level] = []
    for n in candidates(levels, first, most):
        levels.append(Level(n, 0.6, 0.7, 0, holds(n)))
    return max((level.callers for level in levels if level.held), default=0), [level.callers for level in levels]


@pytest.mark.parametrize("limit", [0, 1, 3, 7, 8, 20, 37, 63, 64, 100])
@pytest.mark.parametrize("first", [1, 8])
def test_the_most_that_hold_are_found(limit: int, first: int) -> None:
    most, tried = found(lambda n: n <= limit, first, 64)
    assert most == min(limit, 64)
    assert len(set(tried)) == len(tried) < 14


def test_frames_are_a_tenth_of_a_second_each() -> None:
    pcm = bytes(range(256)) * 40  # 5120 samples
    frames = frames_of(pcm)
    assert [len(frame) for frame in frames] == [3200] * 3
    assert b"".join(frames) == pcm[:9600]  # what is less is not said


def test_percentiles_are_by_nearest_rank_and_nothing_is_late_for_ever() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([*range(1, 101)], 95) == 95
    assert percentile([], 95) == math.inf


def test_a_caller_counts_what_came_of_late() -> None:
    caller = Caller(delays=[(1.0, 0.5), (3.0, 0.2), (4.0, 0.3)])
    assert caller.since(2.5) == [0.2, 0.3]
    caller.began = 1e-9  # it has talked since the machine started, and no word came
    assert caller.since(2.5)[-1] > 3
