"""Echo cancellation: the loudspeaker's sound goes, the user's stays."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vivavoce.recipes.echo import FRAME, RATE, Canceller
from vivavoce.speech.errors import MissingDependency


@pytest.fixture
def canceller() -> Canceller:
    try:
        return Canceller()
    except MissingDependency as e:
        pytest.skip(str(e))


def speechlike(seconds: float, seed: int) -> np.ndarray:
    """Noise in syllables."""
    n = int(seconds * RATE)
    loud = np.sin(2 * np.pi * 3 * np.arange(n) / RATE + seed) > -0.3
    return (np.random.default_rng(seed).standard_normal(n) * 0.06 * loud).astype(np.float32)


def level(x: np.ndarray) -> float:
    return float(10 * np.log10((x.astype(np.float64) ** 2).mean() + 1e-12))


def run(canceller: Canceller, far: np.ndarray, near: np.ndarray, size: int = 480) -> np.ndarray:
    out = []
    for start in range(0, len(near), size):
        canceller.far(far[start : start + size])
        out.append(canceller.near(near[start : start + size]))
    return np.concatenate(out)


@pytest.mark.parametrize("delay", [0.03, 0.12])
def test_an_echo_is_gone_after_a_second(canceller: Canceller, delay: float) -> None:
    far = speechlike(3, 1)
    echo = 0.5 * np.concatenate([np.zeros(int(delay * RATE), np.float32), far])[: len(far)]
    out = run(canceller, far, echo)
    assert level(out[RATE:]) < level(echo[RATE:]) - 20


def test_the_user_is_still_heard(canceller: Canceller) -> None:
    user = speechlike(2, 2)
    out = run(canceller, np.zeros_like(user), user)
    assert abs(level(out[RATE:]) - level(user[RATE:])) < 3


def test_any_block_size_gives_every_whole_frame(canceller: Canceller) -> None:
    user = speechlike(0.5, 3)
    out = run(canceller, np.zeros_like(user), user, size=331)
    assert len(out) == len(user) // FRAME * FRAME


def test_what_was_thrown_away_unheard_is_no_echo(canceller: Canceller) -> None:
    canceller.far(speechlike(1, 4))
    canceller.take_back(RATE - FRAME)
    canceller.near(np.zeros(2 * FRAME, np.float32))
    assert not len(canceller._played)
    canceller.take_back(100)


def test_without_livekit_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    with pytest.raises(MissingDependency, match="pip install"):
        Canceller()
