"""How many sessions a machine is said to hold, by a clock that the test sets."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from vivavoce.server.capacity import SHARE, measured
from vivavoce.streaming.clock import Clock


class Machine:
    """A recogniser whose steps take `base` seconds and `each` a session."""

    def __init__(self, base: float, each: float) -> None:
        self.base, self.each, self.time = base, each, 0.0
        self.made: list[int] = []

    def recognizer(self, slots: int) -> Any:
        self.made.append(slots)
        return _Timed(self, slots)


class _Timed:
    def __init__(self, machine: Machine, slots: int) -> None:
        self.machine, self.free, self.engine, self.clock = machine, slots, self, Clock()
        self._opened = 0

    def open(self, lookahead: int) -> int:
        self._opened += 1
        return self._opened

    def step(self, feeds: dict[int, Tensor]) -> None:
        assert {len(pcm) for pcm in feeds.values()} == {self.clock.chunk_samples(6)}
        self.machine.time += self.machine.base + self.machine.each * len(feeds)


@pytest.mark.parametrize(("base", "each"), [(0.05, 0.01), (0.01, 0.004), (0.1, 0.05)])
def test_a_step_of_everybody_just_fits_its_share_of_a_chunk(base: float, each: float) -> None:
    machine = Machine(base, each)
    places = measured(machine.recognizer, now=lambda: machine.time)
    allowed = SHARE * 0.56
    assert base + each * places <= allowed < base + each * (places + 1) + 1e-9


def test_there_is_a_place_on_a_slow_machine_and_an_end_on_a_fast_one() -> None:
    slow, fast = Machine(5.0, 1.0), Machine(0.0, 1e-6)
    assert measured(slow.recognizer, now=lambda: slow.time) == 1
    assert measured(fast.recognizer, 100, now=lambda: fast.time) == 100
    assert fast.made[-1] == 100
