"""A server that does what a test tells it to: the page's files over HTTP, and a WebSocket that runs a script."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

RATE = 24000
TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Gone(Exception):
    """The client closed the socket."""


class Wire:
    """The server's end of one connection, in the hands of a script."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.resumed = socket.query_params.get("resume")
        self.protocols: list[str] = socket.scope["subprotocols"]
        self.events: list[dict[str, Any]] = []  # what the client sent, audio apart
        self.pcm = b""
        self._told = asyncio.Condition()
        self._gone = False

    async def send(self, kind: str, **fields: object) -> None:
        await self._socket.send_json({"type": kind, "event_id": "event", **fields})

    async def begin(self, session: str = "sess_1", token: str | None = "token_1") -> None:
        await self.send("session.created", session={"id": session, "vivavoce": {"resume_token": token}})

    async def reply(self, item: str, pcm: npt.NDArray[np.int16], words: str = "", response: str = "resp_1") -> None:
        """A whole spoken reply, all at once."""
        await self.send("response.created", response={"id": response})
        for start in range(0, len(pcm), 2400):
            delta = base64.b64encode(pcm[start : start + 2400].tobytes()).decode()
            await self.send("response.output_audio.delta", item_id=item, response_id=response, delta=delta)
        await self.send("response.output_audio_transcript.delta", item_id=item, response_id=response, delta=words)
        await self.send("response.output_audio.done", item_id=item, response_id=response)
        message = {"id": item, "type": "message", "role": "assistant", "status": "completed"}
        await self.send("response.output_item.done", response_id=response, item=message)
        await self.send("response.done", response={"id": response, "status": "completed"})

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self._told:
            await asyncio.wait_for(self._told.wait_for(lambda: condition() or self._gone), 300)
        if self._gone and not condition():
            raise Gone

    async def event(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The count-th event of that kind, once it is here."""
        await self.until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def heard(self, seconds: float) -> float:
        """Waits for so much audio, and says how many ms there are by then."""
        await self.until(lambda: len(self.pcm) >= 2 * RATE * seconds)
        return len(self.pcm) / 2 / RATE * 1000

    async def gone(self) -> None:
        async with self._told:
            await self._told.wait_for(lambda: self._gone)

    async def close(self, code: int = 1001) -> None:
        await self._socket.close(code)

    async def read(self) -> None:
        try:
            while True:
                self.take(await self._socket.receive())
                async with self._told:
                    self._told.notify_all()
        except (Gone, WebSocketDisconnect, RuntimeError):
            self._gone = True
            async with self._told:
                self._told.notify_all()

    def take(self, message: Any) -> None:
        if message["type"] == "websocket.disconnect":
            raise Gone
        if message.get("bytes"):
            self.pcm += message["bytes"]
            return
        event = json.loads(message["text"])
        if event["type"] == "input_audio_buffer.append":
            self.pcm += base64.b64decode(event["audio"])
        else:
            self.events.append(event)


Script = Callable[[Wire], Awaitable[None]]


class Scripted:
    """`url` serves the page; each connection runs the next of `scripts` (the last one again when they run out)."""

    def __init__(self, routes: list[BaseRoute]) -> None:
        self.scripts: list[Script] = []
        self.wires: list[Wire] = []
        self.faults: list[BaseException] = []
        app = Starlette(routes=[*routes, WebSocketRoute("/v1/realtime", self._serve)])
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off",
                                ws="websockets-sansio")  # fmt: skip
        self.server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/"

    def play(self, *scripts: Script) -> None:
        self.scripts, self.wires, self.faults = list(scripts), [], []

    def check(self) -> None:
        """Raises what went wrong in a script."""
        for fault in self.faults:
            raise fault

    async def _serve(self, socket: WebSocket) -> None:
        await socket.accept(subprotocol="realtime" if "realtime" in socket.scope["subprotocols"] else None)
        wire = Wire(socket)
        self.wires.append(wire)
        script = self.scripts[min(len(self.wires), len(self.scripts)) - 1]
        reading = asyncio.create_task(wire.read())
        try:
            await script(wire)
            await wire.gone()
        except Gone:
            pass
        except BaseException as e:  # shown in the test that wrote the script
            self.faults.append(e)
        finally:
            reading.cancel()


@contextmanager
def scripted(routes: list[BaseRoute]) -> Iterator[Scripted]:
    serving = Scripted(routes)
    ready = threading.Event()
    startup = serving.server.startup

    async def starts(sockets: Any = None) -> None:
        await startup(sockets)
        ready.set()

    serving.server.startup = starts  # type: ignore[method-assign]
    thread = threading.Thread(target=serving.server.run, daemon=True)
    thread.start()
    assert ready.wait(300)
    try:
        yield serving
    finally:
        serving.server.should_exit = serving.server.force_exit = True
        thread.join(300)
