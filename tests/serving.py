"""A real server for tests: uvicorn on a port of its own, in a thread, and what else those tests share."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class Announcing(uvicorn.Server):
    """Says when it listens, so that nobody has to ask."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets)
        finally:
            self.listening.set()


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serves the application; yields its address without the scheme, like 127.0.0.1:4321. `app.state.loop` is its
    event loop."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="websockets-sansio",
                            ws_ping_timeout=None, timeout_graceful_shutdown=5)  # fmt: skip
    server = Announcing(config)
    thread = threading.Thread(target=server.run, name="test server", daemon=True)
    thread.start()
    server.listening.wait()
    assert server.started, "the server did not start"
    app.state.loop = server.loop
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Script:
    """A language model behind an endpoint that says what the test has it say. replies: each a list of what to stream,
    a text, a tool call as (name, arguments), or an Event to wait for; prompts: what it was asked."""

    replies: list[list[str | tuple[str, str] | threading.Event]] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"]),
                                 Route("/v1/models", self._models)])  # fmt: skip

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "script"}]})

    async def _complete(self, request: Request) -> Response:
        self.prompts.append(await request.json())
        return StreamingResponse(self._stream(self.replies.pop(0)), media_type="text/event-stream")

    async def _stream(self, pieces: list[str | tuple[str, str] | threading.Event]) -> AsyncIterator[str]:
        reason = "stop"
        for piece in pieces:
            if isinstance(piece, threading.Event):
                await asyncio.to_thread(piece.wait, 300)
            elif isinstance(piece, str):
                yield _chunk({"content": piece})
            else:
                name, arguments = piece
                call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
                yield _chunk({"tool_calls": [call]})
                for part in (arguments[:5], arguments[5:]):
                    yield _chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
                reason = "tool_calls"
        yield _chunk({}, reason)
        yield "data: [DONE]\n\n"


def _chunk(delta: dict[str, Any], reason: str | None = None) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n"


def resident() -> int:
    """Bytes of memory this process needs, where the system tells: what it has, less what it would give back."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed of large messages
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0
