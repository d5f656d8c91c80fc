"""Who may come in: keys, origins, rates and sizes, over HTTP and at a socket's door."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from vivavoce.server.guard import Guard, Limits, Rates, Refused


async def echo(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())}")


async def hello(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return Response(error.refusal.body(), error.refusal.status)


def client(limits: Limits, codes: list[str] | None = None) -> TestClient:
    routes = [Route("/v1/echo", echo, methods=["POST"]), Route("/free", echo), WebSocketRoute("/v1/socket", hello)]
    inner = Starlette(routes=routes, exception_handlers={Refused: refused})
    guard = Guard(inner, limits, needs_key=lambda path: path.startswith("/v1"), refused=(codes or []).append)
    return TestClient(guard)


def test_a_key_is_asked_for_where_there_are_keys() -> None:
    codes: list[str] = ["before"]
    visitor = client(Limits(api_keys=("one", "two")), codes)
    assert visitor.post("/v1/echo").status_code == 401
    assert visitor.post("/v1/echo", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert visitor.post("/v1/echo", headers={"authorization": "Bearer two"}).status_code == 200
    assert visitor.get("/free").status_code == 200
    assert codes == ["before", "invalid_api_key", "invalid_api_key"]
    assert client(Limits()).post("/v1/echo").status_code == 200


def test_a_browsers_socket_brings_its_key_as_a_protocol() -> None:
    visitor = client(Limits(api_keys=("one",)))
    with visitor.websocket_connect("/v1/socket", subprotocols=["realtime", "openai-insecure-api-key.one"]) as socket:
        assert socket.receive_text() == "hello"
    with pytest.raises(WebSocketDisconnect), visitor.websocket_connect("/v1/socket"):
        pass


def test_pages_from_elsewhere_stay_out_unless_they_are_allowed() -> None:
    def status(limits: Limits, origin: str) -> int:
        return client(limits).post("/v1/echo", headers={"origin": origin}).status_code

    assert status(Limits(), "http://testserver") == 200
    assert status(Limits(), "https://elsewhere.example") == 403
    assert status(Limits(), "null") == 403
    assert status(Limits(origins=("https://elsewhere.example",)), "https://elsewhere.example") == 200
    assert status(Limits(origins=("*",)), "https://elsewhere.example") == 200


def test_a_body_over_the_limit_is_refused_also_where_its_length_is_not_said() -> None:
    visitor = client(Limits(body_bytes=100))
    assert visitor.post("/v1/echo", content=b"x" * 100).text == "100"
    assert visitor.post("/v1/echo", content=b"x" * 101).status_code == 413
    answer = visitor.post("/v1/echo", content=iter([b"x" * 60, b"x" * 60]))
    assert answer.status_code == 413
    assert "compressed" in answer.json()["error"]["message"]


def test_each_caller_has_a_rate_of_its_own() -> None:
    now = 0.0
    rates = Rates(2, lambda: now)
    assert [rates.take("a"), rates.take("a")] == [0.0, 0.0]
    assert rates.take("a") == pytest.approx(30.0)
    assert rates.take("b") == 0.0
    now = 30.0
    assert rates.take("a") == 0.0
    assert rates.take("a") > 0
    assert Rates(0, lambda: now).take("a") == 0.0


def test_who_asks_too_often_is_told_when_to_come_back() -> None:
    visitor = client(Limits(requests_per_minute=1))
    assert visitor.post("/v1/echo").status_code == 200
    answer = visitor.post("/v1/echo")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 50
