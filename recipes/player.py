"""Replies on a loudspeaker that can be paused, played on from the very sample, and cut with a count of what was heard.

PCM comes from the socket's thread, all of a reply at once if need be; a thread of the player's own feeds the device, a
little at a time, and tells the echo canceller what it gave.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivavoce.streaming.errors import VivaVoceError

RATE = 24000
BLOCK = 480  # samples given to the device at once: 20 ms, the most a pause waits
SLACK = 1200  # of a reply's last samples, some may stay in the device until the next: 50 ms count as heard
Pcm = NDArray[np.int16]


class Speaker(Protocol):
    """`speech.devices.Loudspeaker`: `play` returns when the device has taken it, `played` counts what was heard."""

    def play(self, pcm: Tensor) -> None: ...
    def stop(self) -> None: ...
    @property
    def played(self) -> int: ...


class Echo(Protocol):
    """`echo.Canceller`: told what went to the device, and how much of that was thrown away unheard."""

    def far(self, pcm: NDArray[np.float32]) -> None: ...
    def take_back(self, samples: int) -> None: ...


class Player:
    """`with Player(speaker) as player: player.push(item, pcm)`; leaving it, what the device has is still heard."""

    def __init__(self, speaker: Speaker, echo: Echo | None = None) -> None:
        self.speaker, self._echo = speaker, echo
        self._sound = bytearray()  # all that was pushed since the last cut
        self._items: list[tuple[str, int]] = []  # (item, where in it it begins)
        self._given = self._offset = 0  # samples of it with the device; the speaker's count where it begins
        self._paused = self._closed = False
        self._silencing = 0  # who waits for the feeder to stand back
        self._fault: VivaVoceError | None = None
        self._feeding, self._more = threading.Lock(), threading.Condition()  # taken in this order
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        with self._more:
            self._closed = True
            self._more.notify()
        self._thread.join()

    def push(self, item: str, pcm: Pcm) -> None:
        """More of an item. Raises what the device failed with."""
        with self._more:
            if self._fault:
                raise self._fault
            if item not in dict(self._items):
                self._begin(item)
            self._sound += pcm.astype("<i2").tobytes()
            self._more.notify()

    def _begin(self, item: str) -> None:
        if self._given == self._total and not self.playing:  # what was before is over: the new one begins right after
            self._forget(self._offset + self._given)
        self._items.append((item, self._total))

    @property
    def _total(self) -> int:
        return len(self._sound) // 2

    @property
    def heard(self) -> int:
        """Samples heard since the last cut."""
        return min(self._given, max(0, self.speaker.played - self._offset))

    @property
    def playing(self) -> bool:
        """Whether there is sound that was not heard yet."""
        return self.heard < self._total - SLACK

    def pause(self) -> None:
        """Silent when it returns."""
        with self._silence():
            self._paused = True
            self._rewind()

    def resume(self) -> None:
        with self._more:
            self._paused = False
            self._more.notify()

    def clear(self) -> tuple[str, int, int] | None:
        """Silent, and everything forgotten: the item that was playing, its samples heard and its samples given; None
        when there was none."""
        with self._silence():
            self._rewind()
            heard, total = self._given, self._total
            begun = [(item, start) for item, start in self._items if start <= heard]
            ends = [start for _, start in self._items if start > heard] or [total]
            self._forget(self.speaker.played)
            self._paused = False
        return (begun[-1][0], heard - begun[-1][1], ends[0] - begun[-1][1]) if begun else None

    def _forget(self, offset: int) -> None:
        self._sound, self._items, self._given, self._offset = bytearray(), [], 0, offset

    def _rewind(self) -> None:
        """Take back what the device has not played."""
        self.speaker.stop()
        heard = self.heard
        if self._echo:
            self._echo.take_back(self._given - heard)
        self._given = heard
        self._offset = self.speaker.played - heard

    @contextmanager
    def _silence(self) -> Iterator[None]:
        """The feeder stands back after the block it is giving. Asked for, not only locked: a thread that gives a lock
        back and takes it again at once gets it before any that waits wakes up."""
        with self._more:
            self._silencing += 1
        with self._feeding, self._more:
            try:
                yield
            finally:
                self._silencing -= 1
                self._more.notify()

    def _feed(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._closed or self._wanted)
                if self._closed:
                    return
            with self._feeding:
                self._give()

    @property
    def _wanted(self) -> bool:
        return not (self._paused or self._silencing) and self._given < self._total

    def _give(self) -> None:
        """A block to the device, while more may be pushed."""
        with self._more:
            if not self._wanted:
                return
            raw = bytes(self._sound[2 * self._given : 2 * (self._given + BLOCK)])
        block = torch.from_numpy(np.frombuffer(raw, "<i2").astype(np.float32) / 32768)
        if self._echo:
            self._echo.far(block.numpy())
        fault: VivaVoceError | None = None
        try:
            self.speaker.play(block)
        except VivaVoceError as e:  # told to whoever pushes next
            fault = e
        with self._more:
            self._given += len(block)
            if fault:
                self._fault, self._closed = fault, True
