"""The callers of `vivavoce bench server`, in a process of their own: so many people who talk at the speed of speech.

`server.py` starts it with an address and a file of frames; each caller sends them over a WebSocket as they would be
said, and notes how long after the audio its words came. The ramp adds callers until that is too long. It imports no
torch, so that it starts at once and leaves the machine to the server.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

SESSION = {"type": "transcription", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}
FRAME_SECONDS = 0.1
SETTLE = 1.5  # seconds after callers came before it counts
STALE = 3.0  # seconds without a word in running speech: the server has stopped answering


@dataclass
class Caller:
    """One connection. delays: (when, seconds from a chunk's last sample to its words); fault: why it failed."""

    delays: list[tuple[float, float]] = field(default_factory=list)
    began: float = 0.0
    last_end: float = 0.0
    fault: str = ""
    task: asyncio.Task[None] | None = None

    async def talk(self, url: str, frames: Sequence[bytes], offset: int, wait: float) -> None:
        """Until cancelled. offset: the frame to begin with; wait: seconds, so that not all chunks end together."""
        try:
            await asyncio.sleep(wait)
            async with connect(url, max_size=None, compression=None) as socket:
                await socket.send(json.dumps({"type": "session.update", "session": SESSION}))
                await asyncio.gather(self._send(socket, frames, offset), self._receive(socket))
        except (OSError, WebSocketException) as e:
            self.fault = self.fault or str(e) or type(e).__name__

    async def _send(self, socket: ClientConnection, frames: Sequence[bytes], offset: int) -> None:
        self.began = time.monotonic()
        i = 0
        while True:
            i += 1
            await asyncio.sleep(max(0.0, self.began + i * FRAME_SECONDS - time.monotonic()))
            await socket.send(frames[(offset + i) % len(frames)])

    async def _receive(self, socket: ClientConnection) -> None:
        async for text in socket:
            event, now = json.loads(text), time.monotonic()
            if event["type"] == "error":
                self.fault = f"{event['error']['code']}: {event['error']['message']}"
            end = (event.get("vivavoce") or {}).get("end_ms")
            if event["type"].endswith("transcription.delta") and end is not None:
                self.last_end = max(self.last_end, end / 1000)
                self.delays.append((now, now - self.began - end / 1000))

    def since(self, start: float) -> list[float]:
        """Delays from then on; where no words come any more, how long that has been."""
        quiet = time.monotonic() - self.began - self.last_end if self.began else 0.0
        return [d for at, d in self.delays if at >= start] + ([quiet] if quiet > STALE else [])


@dataclass
class Level:
    """What a number of callers saw. p50, p95: seconds from a chunk's first sound to its words."""

    callers: int
    p50: float
    p95: float
    refused: int
    held: bool


class Crowd:
    """Callers that stay while more come."""

    def __init__(self, url: str, frames: Sequence[bytes], chunk: float, deadline: float, hold: float) -> None:
        self.url, self.frames, self.chunk, self.deadline, self.hold = url, frames, chunk, deadline, hold
        self.callers: list[Caller] = []
        self._random = random.Random(0)

    async def level(self, n: int) -> Level:
        """With n callers in all, for a while."""
        new = [Caller() for _ in range(n - len(self.callers))]
        for caller in new:
            offset, wait = self._random.randrange(len(self.frames)), self._random.uniform(0, 0.6)
            caller.task = asyncio.create_task(caller.talk(self.url, self.frames, offset, wait))
        self.callers += new
        await asyncio.sleep(SETTLE + self.chunk)
        start = time.monotonic()
        await asyncio.sleep(self.hold)
        delays = [self.chunk + d for caller in self.callers for d in caller.since(start)]
        refused = sum(bool(caller.fault) for caller in self.callers)
        p50, p95 = percentile(delays, 50), percentile(delays, 95)
        return Level(n, p50, p95, refused, not refused and p95 <= self.deadline)

    async def leave(self) -> None:
        for caller in self.callers:
            if caller.task:
                caller.task.cancel()
                with suppress(asyncio.CancelledError):
                    await caller.task
        self.callers.clear()
        await asyncio.sleep(2 * self.chunk)  # what waits in the server is worked off or forgotten


async def ramp(crowd: Crowd, first: int, most: int, budget: float) -> list[Level]:
    """Twice as many until it does not hold, then between; within `budget` seconds."""
    end = time.monotonic() + budget
    levels: list[Level] = []
    for n in candidates(levels, first, most):
        if levels and time.monotonic() + SETTLE + 3 * crowd.chunk + crowd.hold > end:
            break
        if len(crowd.callers) > n:
            await crowd.leave()
        levels.append(await crowd.level(n))
    await crowd.leave()
    return levels


def candidates(levels: Sequence[Level], first: int, most: int) -> Iterator[int]:
    """The next number of callers to try, from how the levels so far went."""
    while True:
        held = max((level.callers for level in levels if level.held), default=0)
        failed = min((level.callers for level in levels if not level.held), default=None)
        n = min(max(first, 2 * held), most) if failed is None else (held + failed) // 2
        if n <= held or n == failed:
            return
        yield n


def percentile(values: Sequence[float], q: float) -> float:
    """By nearest rank; infinite where nothing came."""
    return sorted(values)[max(0, math.ceil(len(values) * q / 100) - 1)] if values else math.inf


def frames_of(pcm: bytes, rate: int = 16000) -> list[bytes]:
    """16-bit PCM as it is sent, in binary frames."""
    size = 2 * round(rate * FRAME_SECONDS)
    return [pcm[i : i + size] for i in range(0, len(pcm) - size + 1, size)]


def main(argv: Sequence[str]) -> int:
    """ADDRESS PCM-FILE CHUNK DEADLINE HOLD FIRST MOST BUDGET; prints the levels as JSON."""
    address, path = argv[:2]
    chunk, deadline, hold, first, most, budget = map(float, argv[2:])
    url = f"ws://{address}/v1/realtime?{urllib.parse.urlencode({'intent': 'transcription'})}"
    crowd = Crowd(url, frames_of(Path(path).read_bytes()), chunk, deadline, hold)
    levels = asyncio.run(ramp(crowd, int(first), int(most), budget))
    print(json.dumps([level.__dict__ for level in levels]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
