"""What waits to be sent to one client: bounded, in order, and sent again where a connection broke before it arrived.

The shell puts texts in, the socket's writer takes them out. A client that reads slowly is read more slowly itself
(`space`), and one that does not read at all is let go.
"""

from __future__ import annotations

import asyncio
from collections import deque

SLOW = 2 * 2**20  # characters waiting from which the client is not read any further
STUCK = 32 * 2**20  # and from which nothing more is kept for it: some minutes of speech
AGAIN = 2**20  # characters that were sent and are kept for a new connection


class Outgoing:
    """One queue for all of a session's connections. stuck: it ran over."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._sent: deque[str] = deque()
        self._size = self._sent_size = 0
        self._news, self._free = asyncio.Event(), asyncio.Event()
        self.closed = self.stuck = False
        self.reason = ""

    def put(self, text: str, *, first: bool = False) -> None:
        """first: before what waits already."""
        if self.closed:
            return
        if self._size + len(text) > STUCK:
            self.stuck = True
            self.close("the client does not read what it is sent")
            return
        self._waiting.insert(0, text) if first else self._waiting.append(text)
        self._size += len(text)
        self._news.set()

    def close(self, reason: str = "") -> None:
        """Nothing more comes; what waits is still sent."""
        self.closed, self.reason = True, self.reason or reason
        self._news.set()
        self._free.set()

    async def get(self) -> str | None:
        """The next text, to be sent before the one after it is asked for; None after the last."""
        while not self._waiting:
            if self.closed:
                return None
            self._news.clear()
            await self._news.wait()
        text = self._waiting.popleft()
        self._size -= len(text)
        self._free.set()
        self._sent.append(text)
        self._sent_size += len(text)
        while self._sent_size > AGAIN:
            self._sent_size -= len(self._sent.popleft())
        return text

    async def space(self) -> None:
        """Until the client has taken enough of what waits for it."""
        while self._size > SLOW and not self.closed:
            self._free.clear()
            await self._free.wait()

    def again(self, last: str) -> None:
        """What was sent after the event of id `last` goes out once more, before what waits; all of it is gone where
        that event is no longer known."""
        mark = f'"event_id":"{last}"'
        known = next((i for i, text in enumerate(self._sent) if mark in text[:200]), None)
        lost = list(self._sent)[known + 1 :] if known is not None else []
        self._waiting.extendleft(reversed(lost))
        self._size += sum(map(len, lost))
        for text in lost:
            self._sent_size -= len(text)
            self._sent.pop()
        self._news.set()
