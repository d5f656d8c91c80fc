"""The application as a whole: its rooms live as long as it does, and every fault is answered in one shape."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from vivavoce.server import app
from vivavoce.server.guard import Limits
from vivavoce.server.house import House
from vivavoce.server.rooms.room import Busy
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.vad import Vad

Make = Callable[[int], Recognizer]


@pytest.fixture
def house(recognizer: Make) -> House:
    return House.build("tiny", recognizer, Vad.load(), places=1)


def rooms() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("room ")}


def test_rooms_run_while_the_application_does(house: House) -> None:
    before = rooms()
    with TestClient(app.build(house)) as client:
        assert rooms() - before == {"room hearing", "room voice", "room files"}
        assert client.get("/healthz").status_code == 200
        assert client.get("/").headers["content-type"].startswith("text/html")
    assert rooms() == before


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Busy("full; come back", 7.0), 503, "server_full"),
        (MissingDependency("install ffmpeg"), 415, "unsupported_media_type"),
        (RuntimeError("a secret path"), 500, "internal_error"),
    ],
)
def test_faults_are_answered_by_kind(
    house: House, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def fail(*args: object) -> object:
        raise error

    monkeypatch.setattr(House, "names", fail)
    with TestClient(app.build(house), raise_server_exceptions=False) as client:
        answer = client.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "secret" not in answer.text
    assert answer.headers.get("retry-after") == ("7" if status == 503 else None)


def test_keys_guard_the_api_but_not_the_page_nor_the_health(house: House) -> None:
    with TestClient(app.build(house, Limits(api_keys=("k",)))) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/").status_code == client.get("/healthz").status_code == 200
        assert 'vivavoce_refused_total{why="invalid_api_key"} 1.0' in client.get("/metrics").text


def test_while_the_server_goes_down_its_api_takes_nobody_and_the_rest_answers(house: House) -> None:
    with TestClient(app.build(house)) as client:
        house.draining = True
        answer = client.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_draining")
        assert client.get("/readyz").json()["status"] == "draining"
        assert client.get("/").status_code == client.get("/healthz").status_code == 200


PAGE = "https://page.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.mark.parametrize("allowed", [PAGE, "*"])
def test_an_allowed_page_from_elsewhere_may_ask_and_read_the_answers_refusals_too(house: House, allowed: str) -> None:
    with TestClient(app.build(house, Limits(api_keys=("k",), origins=(allowed,)))) as client:
        asked = client.options("/v1/audio/speech", headers={"origin": PAGE} | PREFLIGHT)  # which brings no key
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in asked.headers["access-control-allow-methods"]
        answer = client.get("/v1/models", headers={"origin": PAGE, "authorization": "Bearer k"})
        refusal = client.get("/v1/models", headers={"origin": PAGE})
        assert (answer.status_code, refusal.status_code) == (200, 401)
        assert {r.headers["access-control-allow-origin"] for r in (asked, answer, refusal)} == {allowed}


def test_a_page_that_is_not_allowed_may_not_even_ask(house: House) -> None:
    with TestClient(app.build(house, Limits(origins=("https://other.example",)))) as client:
        for answer in (client.options("/v1/audio/speech", headers={"origin": PAGE} | PREFLIGHT),
                       client.get("/v1/models", headers={"origin": PAGE})):  # fmt: skip
            assert answer.status_code in (400, 403)
            assert "access-control-allow-origin" not in answer.headers
        assert client.get("/v1/models", headers={"origin": "http://testserver"}).status_code == 200
