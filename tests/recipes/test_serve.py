"""The command that serves: its options, a server in this process, and an end that waits for who is inside."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

import httpx
import pytest
import soundfile
from babble import noise
from starlette.applications import Starlette
from websockets.sync.client import connect

from vivavoce.recipes import cli, serve
from vivavoce.recipes.options import recognizers
from vivavoce.recipes.serve import NotServing, _parser, bound, config, limits, threaded
from vivavoce.server import app


def options(*words: str) -> argparse.Namespace:
    return _parser().parse_args(list(words))


def test_keys_come_from_options_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVAVOCE_API_KEY", "c,d")
    asked = limits(options("--api-key", "a", "--api-key", "b", "--max-upload", "1", "--allow-origin", "*"))
    assert asked.api_keys == ("a", "b", "c", "d")
    assert (asked.body_bytes, asked.origins, asked.requests_per_minute) == (2**20, ("*",), 0)


@pytest.mark.parametrize("argv", [["--port", "x"], ["--max-sessions", "0"], ["--tls-cert", "a.pem"], ["word"]])
def test_bad_usage_exits_with_2(argv: list[str]) -> None:
    assert cli.main(["serve", *argv]) == 2


def test_tls_files_that_are_not_there_are_one_line(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(quick), "--device", "cpu", "--max-sessions", "1", "--voice", "none", "--llm", "none"]
    assert cli.main(["serve", *words, "--tls-cert", "no.pem", "--tls-key", "no.pem"]) == 1
    assert "no.pem" in capsys.readouterr().err


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        yield there.getsockname()[1]


def test_a_port_that_is_taken_is_one_line_before_any_model_is_loaded(
    taken: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "recognizers", None)
    assert cli.main(["serve", "--port", str(taken)]) == 1
    assert cli.main(["serve", "--port", "70000"]) == 1
    assert cli.main(["serve", "--host", "256.0.0.1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("choose another --host or --port" in line for line in lines)


def test_a_server_in_this_process_that_cannot_start_says_so_and_ends(taken: int) -> None:
    @asynccontextmanager
    async def broken(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no room could be opened")
        yield

    for application, port in [(Starlette(), taken), (Starlette(lifespan=broken), 0)]:
        asked = options("--port", str(port))
        with pytest.raises(NotServing), threaded(config(asked, application), None):  # type: ignore[arg-type]
            pytest.fail("there is no server")
    assert "vivavoce server" not in {thread.name for thread in threading.enumerate()}


def test_two_that_take_one_port_at_once_do_not_both_start() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with bound("127.0.0.1", port) as second:
            first.listen()
            server = serve.Server(config(options("--port", str(port)), Starlette()), None, 0.0, print)  # type: ignore[arg-type]
            with pytest.raises(NotServing, match="choose another --port"):
                server.run([second])


def test_a_voice_or_a_model_asked_for_that_is_not_there_is_an_error(quick: Path) -> None:
    words = ["serve", "--model", str(quick), "--device", "cpu", "--max-sessions", "1"]
    assert cli.main([*words, "--voice", "./none-here", "--llm", "none"]) == 1
    assert cli.main([*words, "--voice", "none", "--llm", "./none-here"]) == 1


def test_a_server_for_one_conversation_runs_in_this_process(quick: Path) -> None:
    asked = argparse.Namespace(model=str(quick), device="cpu", voice="none", llm="none")
    with serve.running(asked) as url:
        assert url.startswith("ws://127.0.0.1:")
        with connect(f"{url}/v1/realtime") as wire:
            assert json.loads(wire.recv(timeout=300))["type"] == "session.created"
        assert httpx.get(f"{url.replace('ws', 'http', 1)}/readyz").json()["places"] == 2


def certificate(folder: Path) -> tuple[Path, Path]:
    """Signed by itself, for this machine, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
    subprocess.run(["openssl", *words, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here (Debian: apt install openssl)")
def test_with_a_certificate_it_serves_https_and_wss(quick: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    words = ["--port", "0", "--model", str(quick), "--device", "cpu", "--max-sessions", "2", "--voice", "none",
             "--llm", "none", "--tls-cert", str(cert), "--tls-key", str(key)]  # fmt: skip
    args = options(*words)
    application = app.build(serve.house(args, recognizers(args)))
    trusting = ssl.create_default_context(cafile=str(cert))
    with threaded(config(args, application), application.state.realtime) as url:
        assert url.startswith("https://127.0.0.1:")
        assert httpx.get(f"{url}/healthz", verify=trusting).json() == {"status": "ok"}
        with connect(f"{url.replace('https', 'wss', 1)}/v1/realtime", ssl=trusting) as wire:
            assert json.loads(wire.recv(timeout=300))["type"] == "session.created"


class Upload:
    """A recording of which the server has read the beginning of the request, and still awaits the rest."""

    def __init__(self, server: str) -> None:
        out = io.BytesIO()
        soundfile.write(out, noise(1, seed=1), 16000, format="WAV")
        form = httpx.Request("POST", f"{server}/v1/audio/transcriptions", data={"model": "whisper-1"},
                             files={"file": ("talk.wav", out.getvalue())})  # fmt: skip
        self.body = form.read()
        self.wire = HTTPConnection(form.url.host, form.url.port, timeout=300)
        self.wire.putrequest("POST", form.url.path)
        for name in ("content-type", "content-length"):
            self.wire.putheader(name, form.headers[name])
        self.wire.putheader("expect", "100-continue")

    def __enter__(self) -> Self:
        self.wire.endheaders()
        assert self.wire.sock.recv(4096).startswith(b"HTTP/1.1 100 ")
        return self

    def finish(self) -> int:
        self.wire.send(self.body)
        return self.wire.getresponse().status

    def __exit__(self, *exc: object) -> None:
        self.wire.close()


def test_sigterm_lets_who_is_inside_finish_and_takes_nobody_more(model_dir: Path) -> None:
    words = ["--port", "0", "--model", str(model_dir), "--device", "cpu", "--max-sessions", "2", "--voice", "none",
             "--llm", "none", "--drain", "60"]  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "vivavoce.recipes.cli", "serve", *words],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        assert "serves tiny to 2 sessions at once" in line
        http = line.split()[1]
        url = http.replace("http", "ws", 1) + "/v1/realtime?intent=transcription"
        with connect(url) as inside, Upload(http) as upload:
            assert json.loads(inside.recv(timeout=300))["type"] == "session.created"
            server.send_signal(signal.SIGTERM)
            assert "ending when 1 sessions and 1 requests have" in server.stderr.readline()
            with connect(url) as late:
                assert json.loads(late.recv(timeout=300))["error"]["code"] == "server_draining"
            assert httpx.get(f"{http}/v1/models").json()["error"]["code"] == "server_draining"
            assert upload.finish() == 200
            inside.send(json.dumps({"type": "session.update", "session": {"type": "transcription"}}))
            assert json.loads(inside.recv(timeout=300))["type"] == "session.updated"
        assert server.wait(300) == 0
    finally:
        server.kill()
        server.communicate()
