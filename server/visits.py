"""The API's requests under way, so that a server that goes down can wait for them (`House.finish`), as ASGI middleware.

Who comes then is told to try again, and so is who was not answered in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .guard import Refusal, refuse
from .house import House

DRAINING = Refusal(
    503, "server_error", "server_draining", "this server is going down; send the request again in a moment", 5.0
)


class Visits:
    """counts: whether a path is the API's; health and metrics answer to the end."""

    def __init__(self, app: ASGIApp, house: House, *, counts: Callable[[str], bool]) -> None:
        self.app, self.house, self.counts = app, house, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.counts(scope["path"]):
            await self.app(scope, receive, send)
        elif self.house.draining:
            await self._turn_away(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.house.metrics.refused.labels(DRAINING.code).inc()
        await refuse(DRAINING, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, begun = asyncio.current_task(), False
        assert task is not None, "a server runs each request in a task"

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        self.house.requests.add(task)
        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:  # the server does not wait any longer
            if not begun:  # else the connection breaks off, which tells the client that something is missing
                await self._turn_away(scope, receive, send)
        finally:
            self.house.requests.discard(task)
