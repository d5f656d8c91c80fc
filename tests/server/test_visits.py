"""Requests inside: a server that goes down waits for them and takes no more; health is told to the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from vivavoce.server.house import House
from vivavoce.server.http import needs_key
from vivavoce.server.visits import Visits
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.vad import Vad


class Slow:
    """An application whose answers wait until they may go. entered: the paths of requests that have reached it."""

    def __init__(self) -> None:
        self.entered, self.may_go = asyncio.Queue[str](), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        self.entered.put_nowait(scope["path"])
        if scope["path"] != "/healthz":
            await self.may_go.wait()
        await PlainTextResponse("done")(scope, receive, send)


class Client:
    """One request; `got` is what was sent back."""

    def __init__(self, visits: Visits, path: str) -> None:
        self.got: list[Message] = []
        scope = {"type": "http", "path": path, "method": "POST", "headers": []}
        self.over = asyncio.create_task(visits(scope, self.receive, self.send))

    async def receive(self) -> Message:
        return {"type": "http.request"}

    async def send(self, message: Message) -> None:
        self.got.append(message)

    async def answer(self) -> tuple[int, str]:
        await self.over
        return self.got[0]["status"], self.got[1]["body"].decode()


@pytest.fixture
def house(recognizer: Callable[[int], Recognizer]) -> House:
    return House.build("tiny", recognizer, Vad.load(), places=1)


def code(answer: tuple[int, str]) -> tuple[int, Any]:
    return answer[0], json.loads(answer[1])["error"]["code"]


def test_who_is_inside_is_answered_and_who_comes_later_is_told_to_try_again(house: House) -> None:
    async def main() -> None:
        slow = Slow()
        visits = Visits(slow, house, counts=needs_key)
        inside = Client(visits, "/v1/audio/transcriptions")
        await slow.entered.get()
        draining = asyncio.create_task(house.finish(60))
        late = Client(visits, "/v1/models")  # its task begins after the one before
        assert code(await late.answer()) == (503, "server_draining")
        assert (b"retry-after", b"5") in late.got[0]["headers"]
        assert await Client(visits, "/healthz").answer() == (200, "done")
        assert not draining.done()
        slow.may_go.set()
        await draining
        assert await inside.answer() == (200, "done")

    asyncio.run(main())
    assert not house.requests
    assert 'vivavoce_refused_total{why="server_draining"} 1.0' in house.metrics.exposition().decode()


def test_who_is_not_answered_in_time_is_told_and_a_stream_breaks_off(house: House) -> None:
    async def main() -> None:
        slow = Slow()
        visits = Visits(slow, house, counts=needs_key)
        inside, stream = Client(visits, "/v1/audio/speech"), Client(visits, "/v1/stream")
        assert {await slow.entered.get() for _ in range(2)} == {"/v1/audio/speech", "/v1/stream"}
        await house.finish(0)
        assert code(await inside.answer()) == (503, "server_draining")
        assert [message["type"] for message in stream.got] == ["http.response.start"]

    asyncio.run(main())
    assert not house.requests
