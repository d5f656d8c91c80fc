"""The browser page: the files in `page/`, as they are, with headers that let them load nothing from elsewhere.

`routes` go into the server's application, the page at `/` and its files below `/page/`. There is no build step.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for anew each time, and answered by 304 when nothing changed
}


def routes() -> list[BaseRoute]:
    """GET / and GET /page/NAME for every file of the page, read once."""
    files = {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
    return [_route("/" if name == "index.html" else f"/page/{name}", path) for name, path in files.items()]


def _route(where: str, path: Path) -> Route:
    content, kind = path.read_bytes(), TYPES[path.suffix]
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)

    return Route(where, answer)
