"""`/v1/realtime`: sockets in and out of sessions.

A socket comes with a query (`model`, `intent`, `resume`); frames go to its session's `Shell`, and what waits there is
sent. A socket lost without a goodbye leaves its session waiting for `RESUME` seconds, so that the client can come back
with its resume token, unless somebody else needs the place.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Literal

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from vivavoce.streaming.errors import Full

from .conversation import Conversation
from .events import Error, ErrorInfo
from .house import House
from .protocol import Protocol
from .shell import Shell

Kind = Literal["realtime", "transcription"]

RESUME = 30.0  # seconds
GOODBYE = (1000, 1001, 1005)  # close codes of a client that means it; 1005: it gave none
BROKEN = 1006
TRY_LATER, POLICY, SERVICE_RESTART = 1013, 1008, 1012


@dataclass(eq=False)
class Session:
    """A shell, and whether somebody is connected to it. directions: the tasks that read and write the socket; leaving:
    when it is given up."""

    shell: Shell
    token: str
    kind: Kind
    socket: WebSocket | None = None
    leaving: asyncio.TimerHandle | None = None
    directions: tuple[asyncio.Task[int], ...] = ()


class Realtime:
    """All sessions of a house. resume: seconds that one waits for a client whose connection broke; 0 for none."""

    def __init__(self, house: House, *, resume: float = RESUME) -> None:
        self.house, self.resume = house, resume
        self.sessions: dict[str, Session] = {}  # by token
        self._count = 0
        self._empty = asyncio.Event()

    def routes(self) -> list[BaseRoute]:
        return [WebSocketRoute("/v1/realtime", self.serve)]

    async def serve(self, socket: WebSocket) -> None:
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
        beta = "openai-beta.realtime-v1" in offered or socket.headers.get("openai-beta") == "realtime=v1"
        protocol = Protocol(beta=beta)
        try:
            session = self._find(socket, protocol)
        except Refusal as e:
            self.house.metrics.refused.labels(e.info.code or "").inc()
            await _say_and_close(socket, protocol, e.info, e.close)
            return
        session.shell.protocol = protocol
        code = await self._converse(session, socket)
        if session.socket is not socket:
            return  # another connection has taken the session over
        session.socket = None
        if code in GOODBYE or session.shell.outgoing.closed or not self.resume:
            self._end(session, "closed")
        elif not session.shell.ended:
            session.leaving = asyncio.get_running_loop().call_later(self.resume, self._end, session, "lost")

    async def drain(self, seconds: float) -> None:
        """Take nobody more, and wait so long for those inside to finish; then end them."""
        self.house.draining = True
        for session in [s for s in self.sessions.values() if s.socket is None]:
            self._end(session, "drained")
        try:
            async with asyncio.timeout(seconds):
                await self.quiet()
        except TimeoutError:
            for session in list(self.sessions.values()):
                self._end(session, "drained")

    async def quiet(self) -> None:
        """Until no session is left."""
        while self.sessions:
            self._empty.clear()
            await self._empty.wait()

    def _find(self, socket: WebSocket, protocol: Protocol) -> Session:
        """The session a socket is for. Raises Refusal."""
        query = socket.query_params
        if token := query.get("resume"):
            if (session := self.sessions.get(token)) is None:
                message = f"no session waits under this token (they do for {self.resume:g} s); connect without it"
                raise Refusal("unknown_resume_token", message, close=POLICY)
            return self._take_over(session, socket, query.get("last_event", ""))
        model = query.get("model", "")
        if model and not self.house.knows(model):
            message = f"there is no model {model!r} here; there are {', '.join(self.house.names())}"
            raise Refusal("model_not_found", message, close=POLICY)
        self._enter()
        try:
            return self._begin(socket, protocol, query.get("intent", ""))
        except BaseException:
            self.house.hearing.leave()
            raise

    def _enter(self) -> None:
        """Take a place, that of whoever has been away longest if there is no other. Raises Refusal."""
        if self.house.draining:
            raise Refusal("server_draining", "this server is going down; connect again in a moment", retry_after=5.0)
        try:
            self.house.hearing.enter()
            return
        except Full as e:
            reason = e
        waiting = [s for s in self.sessions.values() if s.socket is None]
        if not waiting:
            raise Refusal("server_full", str(reason), retry_after=getattr(reason, "retry_after", 2.0))
        self._end(waiting[0], "displaced")
        self._enter()

    def _begin(self, socket: WebSocket, protocol: Protocol, intent: str) -> Session:
        self._count += 1
        kind: Kind = "transcription" if intent == "transcription" else "realtime"
        token = secrets.token_urlsafe(24)
        conversation = Conversation(
            session_id=f"sess_{secrets.token_hex(8)}", kind=kind, model=self.house.model, resume_token=token
        )
        session = Session(Shell(self.house, conversation, protocol), token, kind, socket)
        self.sessions[token] = session
        self.house.metrics.sessions.labels(kind).inc()
        session.shell.begin()
        return session

    def _take_over(self, session: Session, socket: WebSocket, last_event: str) -> Session:
        """The connection before, if it still seems to be there, is dead to the client and so to us."""
        if session.leaving:
            session.leaving.cancel()
            session.leaving = None
        for task in session.directions:  # at once: nothing of what follows is to go out by the connection before
            task.cancel()
        session.socket = socket
        del self.sessions[session.token]
        self.sessions[session.token] = session  # away longest is first
        if last_event:
            session.shell.outgoing.again(last_event)
        session.shell.greet()
        return session

    async def _converse(self, session: Session, socket: WebSocket) -> int:
        """Both directions until either ends; returns the close code."""
        reading = asyncio.create_task(self._read(session, socket))
        writing = asyncio.create_task(self._write(session, socket))
        session.directions = tasks = (reading, writing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        ended = [task for task in tasks if not task.cancelled() and task.exception() is None]
        return ended[0].result() if ended else BROKEN

    async def _read(self, session: Session, socket: WebSocket) -> int:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                # uvicorn says 1005 of a broken connection too, but names a reason only where the client closed
                return int(message["code"]) if "reason" in message else BROKEN
            text, data = message.get("text"), message.get("bytes")
            session.shell.receive(text if text is not None else data or b"")
            await session.shell.ready()

    async def _write(self, session: Session, socket: WebSocket) -> int:
        outgoing = session.shell.outgoing
        while (text := await outgoing.get()) is not None:
            await socket.send_text(text)
        code = POLICY if outgoing.stuck else SERVICE_RESTART if self.house.draining else 1000
        await socket.close(code, outgoing.reason[:120])
        return code

    def _end(self, session: Session, why: str) -> None:
        if self.sessions.pop(session.token, None) is None:
            return
        if session.leaving:
            session.leaving.cancel()
        session.shell.end()
        self.house.metrics.sessions.labels(session.kind).dec()
        self.house.metrics.ended.labels(why).inc()
        if not self.sessions:
            self._empty.set()


class Refusal(Exception):
    """A socket is told why and closed. retry_after: seconds."""

    def __init__(self, code: str, message: str, *, retry_after: float | None = None, close: int = TRY_LATER) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if retry_after is None else "server_error"
        hint = "" if retry_after is None else f" (retry after {retry_after:.0f} s)"
        self.info = ErrorInfo(type=kind, code=code, message=message + hint, retry_after_s=retry_after)
        self.close = close


async def _say_and_close(socket: WebSocket, protocol: Protocol, info: ErrorInfo, code: int) -> None:
    try:
        await socket.send_text(protocol.send(Error(event_id="event_0", error=info)))
        await socket.close(code, (info.code or "")[:120])
    except (WebSocketDisconnect, RuntimeError):
        return  # gone before it was told
