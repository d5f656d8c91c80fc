"""Room responses: the direct sound first, echoes where geometry puts them, decay as asked."""

from __future__ import annotations

import numpy as np
import pytest

from vivavoce.recipes.data.rooms import RATE, SOUND, image_method, simulate


def test_the_first_echoes_arrive_when_the_walls_say() -> None:
    size, source, microphone = np.array([8.0, 40.0, 40.0]), np.array([3.0, 20.0, 20.0]), np.array([5.0, 20.0, 20.0])
    response = image_method(size, source, microphone, 2.0, 0.05)
    assert int(np.abs(response).argmax()) == 0
    later = np.abs(response[20:])
    # off the near walls: 8 m of path against 2 m direct, from both sides at once
    assert abs(20 + int(later.argmax()) - (8 - 2) / SOUND * RATE) <= 1


@pytest.mark.parametrize("seconds", [0.2, 0.6])
def test_energy_falls_by_sixty_decibels_in_about_the_time_asked(seconds: float) -> None:
    size = np.array([6.0, 5.0, 3.0])
    response = image_method(size, np.array([1.0, 1.2, 1.5]), np.array([4.5, 3.1, 1.1]), seconds, 0.6)
    left = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]  # Schroeder's backward integral
    decibels = 10 * np.log10(left / left[0] + 1e-12)
    five, twenty_five = (int(np.argmax(decibels < level)) for level in (-5, -25))
    assert 0.6 * seconds < 3 * (twenty_five - five) / RATE < 1.6 * seconds


def test_the_same_seed_gives_the_same_rooms_and_another_seed_others() -> None:
    first, again, other = simulate(3, 1), image_rooms(3, 1), simulate(3, 2)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
        assert a.dtype == np.float32
        assert np.abs(a).max() == 1.0


def image_rooms(count: int, seed: int) -> tuple[np.ndarray, ...]:
    simulate.cache_clear()
    return simulate(count, seed)
