"""A real server for tests: uvicorn on a port of its own, in a thread, and what else those tests share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


class Announcing(uvicorn.Server):
    """Says when it listens, so that nobody has to ask."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.listening.set()


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serves the application; yields its address without the scheme, like 127.0.0.1:4321."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="websockets-sansio",
                            timeout_graceful_shutdown=5)  # fmt: skip
    server = Announcing(config)
    thread = threading.Thread(target=server.run, name="test server", daemon=True)
    thread.start()
    server.listening.wait()
    assert server.started, "the server did not start"
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()
