"""Who may come in, and how much they may bring: API keys, origins, request rates and body sizes, as ASGI middleware.

It stands before every route, sockets included. A refusal says what to do, in the shape that OpenAI's clients read.
"""

from __future__ import annotations

import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY_PROTOCOL = "openai-insecure-api-key."  # how a browser, which cannot set headers on a socket, brings its key
CALLERS = 10_000  # remembered at once for their rates; the one seen longest ago is forgotten


@dataclass(frozen=True)
class Limits:
    """api_keys: none means that everybody may come in. origins: browsers' pages from elsewhere that may, besides our
    own ("*": all). requests_per_minute: of one key or address, 0 for no limit. body_bytes: of one request."""

    api_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    requests_per_minute: int = 0
    body_bytes: int = 100 * 2**20


@dataclass(frozen=True)
class Refusal:
    """An HTTP status and an error as OpenAI's API words it."""

    status: int
    type: str
    code: str
    message: str
    retry_after: float | None = None
    param: str | None = None

    def body(self) -> bytes:
        return json.dumps(
            {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}
        ).encode()

    def headers(self) -> dict[str, str]:
        hint = {} if self.retry_after is None else {"retry-after": f"{max(1, round(self.retry_after))}"}
        return {"content-type": "application/json", **hint}


class Refused(Exception):
    """A request is turned down on the way; the application answers with `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Guard:
    """app: what is guarded; needs_key: whether a path asks for a key at all; refused: told the code of each refusal."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        *,
        needs_key: Callable[[str], bool],
        refused: Callable[[str], None] = lambda code: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app, self.limits, self.needs_key, self.refused = app, limits, needs_key, refused
        self._rates = Rates(limits.requests_per_minute, now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if (refusal := self.check(scope)) is not None:
            self.refused(refusal.code)
            await refuse(refusal, scope, receive, send)
            return
        await self.app(scope, self._counted(receive) if scope["type"] == "http" else receive, send)

    def check(self, scope: Scope) -> Refusal | None:
        """What a request or a socket is to be told, or nothing where it may come in."""
        headers, path = Headers(scope=scope), scope["path"]
        if not self._same_origin(headers, scope):
            return Refusal(
                403,
                "invalid_request_error",
                "origin_not_allowed",
                f"pages of {headers['origin']} may not use this server; start it with --allow-origin "
                f"{headers['origin']}",
            )
        if not self.needs_key(path):
            return None
        key = key_of(headers)
        known = [hmac.compare_digest(key.encode(), k.encode()) for k in self.limits.api_keys]
        if known and not any(known):
            return Refusal(
                401,
                "invalid_request_error",
                "invalid_api_key",
                "this server wants an API key it knows; send `Authorization: Bearer KEY`",
            )
        wait = self._rates.take(key or str((scope.get("client") or ("",))[0]))
        if wait:
            return Refusal(
                429,
                "rate_limit_error",
                "rate_limit_exceeded",
                f"more than {self.limits.requests_per_minute} requests a minute; wait {wait:.0f} s",
                wait,
            )
        size = headers.get("content-length", "0")
        if size.isdigit() and int(size) > self.limits.body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "invalid_request_error",
            "request_too_large",
            f"the request holds more than {self.limits.body_bytes / 2**20:.0f} MB; send it in parts, or "
            "compressed (flac, opus)",
        )

    def _same_origin(self, headers: Mapping[str, str], scope: Scope) -> bool:
        """Programs send no Origin; a browser's page does, and then it has to be ours or allowed."""
        origin = headers.get("origin")
        if origin is None or "*" in self.limits.origins or origin in self.limits.origins:
            return True
        return urlsplit(origin).netloc == headers.get("host")

    def _counted(self, receive: Receive) -> Receive:
        """The body, counted while it is read: a client may leave out or forge its Content-Length."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limits.body_bytes:
                raise Refused(self._too_large())
            return message

        return counted


def key_of(headers: Mapping[str, str]) -> str:
    """The key a caller brings, in a header or, from a browser's socket, as a subprotocol; else ""."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    offered = [p.strip() for p in headers.get("sec-websocket-protocol", "").split(",")]
    return next((p.removeprefix(KEY_PROTOCOL) for p in offered if p.startswith(KEY_PROTOCOL)), "")


async def refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the refusal; before a socket's handshake it is an HTTP response as well."""
    headers = [(k.encode(), v.encode()) for k, v in refusal.headers().items()]
    prefix = "http"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        prefix = "websocket.http"
    await send({"type": f"{prefix}.response.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": refusal.body()})


class Rates:
    """A bucket of tokens for each caller, refilled steadily, a minute's worth at most."""

    def __init__(self, per_minute: int, now: Callable[[], float]) -> None:
        self._per_minute, self._now = per_minute, now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was

    def take(self, caller: str) -> float:
        """0 for a request that may pass, else the seconds until one may."""
        if not self._per_minute:
            return 0.0
        now, rate = self._now(), self._per_minute / 60
        tokens, at = self._buckets.pop(caller, (float(self._per_minute), now))
        tokens = min(float(self._per_minute), tokens + (now - at) * rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / rate
        self._buckets[caller] = (tokens - (not wait), now)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        return wait
