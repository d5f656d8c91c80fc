"""Between the rooms' threads and the event loop: what a socket or an endpoint awaits.

A `Listener` gives a hearing room its audio no faster than the room takes it, and its words to `async for`; a `Speaker`
does the same for sound. Each holds a bounded amount, whoever is slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .rooms.hearing import Deaf, Heard, Hearing, HearingRoom
from .rooms.speaking import Hoarse, SpeakingRoom, Spoken

T = TypeVar("T")

WAITING = 30.0  # seconds of audio a session may have waiting in a room


def on_loop(take: Callable[[T], None]) -> Callable[[T], None]:
    """A sink for a room: `take` runs on the event loop this is called on. After the loop has closed nobody listens."""
    loop = asyncio.get_running_loop()

    def sink(event: T) -> None:
        with suppress(RuntimeError):  # it has
            loop.call_soon_threadsafe(take, event)

    return sink


class Listener:
    """One recording in a hearing room. Raises Busy, Closed, BadLookahead."""

    def __init__(self, room: HearingRoom, *, lookahead: int, waiting: float = WAITING) -> None:
        self._events: asyncio.Queue[Heard | Deaf] = asyncio.Queue()  # bounded by the audio let in
        self._space = asyncio.Event()
        self._limit, self._waiting = round(waiting * room.clock.rate), 0
        self._room = room
        room.enter()
        self.hearing: Hearing = room.open(on_loop(self._take), lookahead=lookahead)

    async def push(self, pcm: NDArray[np.float32]) -> None:
        """(n,) float32 at 16 kHz; returns when there is room for more. Raises BadAudio."""
        self.hearing.push(pcm)
        self._waiting += len(pcm)
        while self._waiting > self._limit:
            self._space.clear()
            await self._space.wait()

    def finish(self) -> None:
        self.hearing.finish()

    def close(self) -> None:
        """Once, however it ended."""
        self.hearing.close()
        self._room.leave()

    async def __aiter__(self) -> AsyncIterator[Heard]:
        """Until the last; raises what the model failed with."""
        while True:
            event = await self._events.get()
            if isinstance(event, Deaf):
                raise event.error
            yield event
            if event.last:
                return

    def _take(self, event: Heard | Deaf) -> None:
        self._events.put_nowait(event)
        self._waiting = 0 if isinstance(event, Deaf) else self._waiting - event.taken
        self._space.set()


class Speaker:
    """One session of a speaking room. Raises what `SpeakingRoom.open` raises."""

    def __init__(self, room: SpeakingRoom, *, rate: float = 1.0) -> None:
        self._events: asyncio.Queue[Spoken | Hoarse] = asyncio.Queue()  # bounded by the room's lead
        self.speaking = room.open(on_loop(self._events.put_nowait), rate=rate)

    def say(self, text: str) -> None:
        """All there is to say."""
        self.speaking.say(text)
        self.speaking.finish()

    def close(self) -> None:
        self.speaking.close()

    async def __aiter__(self) -> AsyncIterator[Spoken]:
        """Until the last; each counts as taken when the next is asked for. Raises what the voice failed with."""
        while True:
            event = await self._events.get()
            if isinstance(event, Hoarse):
                raise event.error
            yield event
            if event.last:
                return
            self.speaking.took(len(event.pcm))
