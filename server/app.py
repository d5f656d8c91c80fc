"""The application: every route of the server, behind its guard, for one house of rooms.

uvicorn runs it (see `recipes.serve`, which also says where the models come from).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from vivavoce.speech.errors import MissingDependency
from vivavoce.streaming.errors import VivaVoceError

from . import http, site
from .guard import Guard, Limits, Refusal, Refused
from .house import House
from .realtime import Realtime
from .rooms.room import Busy, Closed
from .visits import Visits

log = logging.getLogger(__name__)


def build(house: House, limits: Limits | None = None) -> Starlette:
    """house: its rooms start and stop with the application.

    `state.realtime` of what is returned has the sessions, to drain them.
    """
    realtime = Realtime(house)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with house.open():
            yield

    def refused(code: str) -> None:
        house.metrics.refused.labels(code).inc()

    limits = limits or Limits()
    # before the guard: the question whether a page may ask brings no key
    cors = Middleware(CORSMiddleware, allow_origins=limits.origins, allow_methods=["*"], allow_headers=["*"],
                      allow_private_network=True, expose_headers=["Retry-After"])  # fmt: skip
    guard = Middleware(Guard, limits=limits, needs_key=http.needs_key, refused=refused)
    app = Starlette(
        routes=[*http.routes(house), *realtime.routes(), *site.routes()],
        middleware=[cors, guard, Middleware(Visits, house=house, counts=http.needs_key)],
        exception_handlers={
            Refused: _turned_down,
            VivaVoceError: _user_error,
            HTTPException: _plain,
            Exception: _fault,
        },
        lifespan=lifespan,
    )
    app.state.realtime = realtime
    return app


def _response(refusal: Refusal) -> Response:
    return Response(refusal.body(), refusal.status, refusal.headers())


async def _turned_down(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _response(error.refusal)


async def _user_error(request: Request, error: Exception) -> Response:
    if isinstance(error, Busy | Closed):
        return _response(Refusal(503, "server_error", "server_full", str(error), error.retry_after))
    if isinstance(error, MissingDependency):
        return _response(Refusal(415, "invalid_request_error", "unsupported_media_type", str(error)))
    return _response(Refusal(400, "invalid_request_error", "invalid_value", str(error)))


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    detail = f" ({error.detail})" if error.detail != phrase else ""
    message = f"{request.method} {request.url.path}: {phrase}{detail}"
    return _response(Refusal(error.status_code, "invalid_request_error", phrase.lower().replace(" ", "_"), message))


async def _fault(request: Request, error: Exception) -> Response:
    log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return _response(Refusal(500, "server_error", "internal_error", "the server made a mistake; its log says which"))
