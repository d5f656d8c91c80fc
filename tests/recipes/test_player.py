"""Replies on a loudspeaker: a pause loses nothing, a cut counts what was heard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from vivavoce.recipes.player import SLACK, Player
from vivavoce.speech.errors import MissingDevice


@dataclass
class Speaker:
    """A loudspeaker whose clock the test turns: `hear(n)` lets n samples be heard."""

    sound: list[float] = field(default_factory=list)  # given and not thrown away
    heard: int = 0
    broken: bool = False
    told: threading.Condition = field(default_factory=threading.Condition)

    def play(self, pcm: Tensor) -> None:
        with self.told:
            if self.broken:
                self.told.notify_all()
                raise MissingDevice("the loudspeaker went away; plug it in again")
            self.sound += (pcm * 32768).tolist()
            self.told.notify_all()

    def stop(self) -> None:
        del self.sound[self.heard :]

    @property
    def played(self) -> int:
        return self.heard

    def hear(self, samples: int) -> None:
        self.heard += samples

    def until(self, given: int) -> None:
        with self.told:
            assert self.told.wait_for(lambda: len(self.sound) >= given or self.broken, 300)


@dataclass
class Echo:
    far_samples: int = 0

    def far(self, pcm: np.ndarray) -> None:
        self.far_samples += len(pcm)

    def take_back(self, samples: int) -> None:
        self.far_samples -= samples


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def player(speaker: Speaker, echo: Echo) -> Iterator[Player]:
    with Player(speaker, echo) as player:
        yield player


def ramp(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=np.int16)


def test_what_is_pushed_is_heard_in_order(player: Player, speaker: Speaker) -> None:
    for start in range(0, 5000, 1000):
        player.push("a", ramp(start, start + 1000))
    speaker.until(5000)
    assert speaker.sound == ramp(0, 5000).tolist()
    assert player.playing
    speaker.hear(5000)
    assert not player.playing


def test_a_paused_reply_goes_on_with_the_next_sample(player: Player, speaker: Speaker, echo: Echo) -> None:
    player.push("a", ramp(0, 5000))
    speaker.until(5000)
    speaker.hear(1234)
    player.pause()
    assert len(speaker.sound) == echo.far_samples == 1234
    player.push("a", ramp(5000, 6000))
    assert len(speaker.sound) == 1234
    player.resume()
    speaker.until(6000)
    assert speaker.sound == ramp(0, 6000).tolist()
    assert echo.far_samples == 6000


class Slow(Speaker):
    """One that takes a block when the test lets it, as a device does whose buffer is full."""

    def __init__(self) -> None:
        super().__init__()
        self.takes, self.busy, self.blocks = threading.Semaphore(0), threading.Event(), 0

    def play(self, pcm: Tensor) -> None:
        self.busy.set()
        assert self.takes.acquire(timeout=300)
        self.blocks += 1
        super().play(pcm)


class Contended:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock, self.awaited = threading.Lock(), threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.awaited.set()
            self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


def test_a_pause_waits_for_no_more_than_the_block_the_device_is_taking() -> None:
    speaker, feeding = Slow(), Contended()
    player = Player(speaker)
    player._feeding = feeding  # type: ignore[assignment]
    with player:
        player.push("a", ramp(0, 20_000))
        assert speaker.busy.wait(300)
        pausing = threading.Thread(target=player.pause)
        pausing.start()
        assert feeding.awaited.wait(300)
        speaker.takes.release(100)
        pausing.join(300)
        assert not pausing.is_alive()
        assert speaker.blocks == 1


def test_a_push_does_not_wait_for_the_device() -> None:
    speaker = Slow()
    with Player(speaker) as player:
        for start in range(0, 5000, 1000):
            player.push("a", ramp(start, start + 1000))
        speaker.takes.release(100)
        speaker.until(5000)
    assert speaker.sound == ramp(0, 5000).tolist()


def test_a_cut_says_which_item_and_how_much_of_it_was_heard(player: Player, speaker: Speaker) -> None:
    player.push("a", ramp(0, 3000))
    player.push("b", ramp(0, 4000))
    player.push("c", ramp(0, 4000))
    speaker.until(11000)
    speaker.hear(3500)
    player.pause()
    assert player.clear() == ("b", 500, 4000)
    assert not player.playing
    player.push("d", ramp(0, 2000))
    speaker.until(5500)
    speaker.hear(100)
    assert player.clear() == ("d", 100, 2000)
    assert player.clear() is None


def test_a_reply_after_one_that_was_heard_counts_from_its_own_beginning(player: Player, speaker: Speaker) -> None:
    player.push("a", ramp(0, 2000))
    speaker.until(2000)
    speaker.hear(2000 - SLACK // 2)  # some converters keep a little until more comes
    assert not player.playing
    player.push("b", ramp(0, 2000))
    speaker.until(4000)
    speaker.hear(SLACK // 2 + 700)
    assert player.clear() == ("b", 700, 2000)


def test_a_reply_that_comes_slower_than_it_is_heard_keeps_its_count(player: Player, speaker: Speaker) -> None:
    for start in range(0, 3000, 1000):
        player.push("a", ramp(start, start + 1000))
        speaker.until(start + 1000)
        speaker.hear(1000)
    player.push("a", ramp(3000, 6000))
    speaker.until(6000)
    assert player.clear() == ("a", 3000, 6000)


def test_a_loudspeaker_that_went_away_is_told_to_who_pushes(player: Player, speaker: Speaker) -> None:
    speaker.broken = True
    player.push("a", ramp(0, 1000))
    player._thread.join(300)
    with pytest.raises(MissingDevice, match="went away"):
        player.push("a", ramp(1000, 2000))


def test_leaving_ends_the_thread() -> None:
    with Player(Speaker()) as player:
        player.push("a", torch.zeros(100).to(torch.int16).numpy())
    assert not player._thread.is_alive()
