"""The command that serves: its options, a server in this process, and an end that waits for who is inside."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from vivavoce.recipes import cli, serve
from vivavoce.recipes.serve import _parser, limits


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


def test_a_voice_or_a_model_asked_for_that_is_not_there_is_an_error(quick: Path) -> None:
    words = ["serve", "--model", str(quick), "--device", "cpu", "--max-sessions", "1"]
    assert cli.main([*words, "--voice", "./none-here", "--llm", "none"]) == 1
    assert cli.main([*words, "--voice", "none", "--llm", "./none-here"]) == 1


def test_a_server_for_one_conversation_runs_in_this_process(quick: Path) -> None:
    asked = argparse.Namespace(model=str(quick), device="cpu", voice="none", llm="none")
    with serve.running(asked) as url:
        assert url.startswith("ws://127.0.0.1:")
        with connect(f"{url}/v1/realtime") as socket:
            assert json.loads(socket.recv(timeout=60))["type"] == "session.created"
        assert httpx.get(f"{url.replace('ws', 'http', 1)}/readyz").json()["places"] == 2


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
        url = line.split()[1].replace("http", "ws", 1) + "/v1/realtime?intent=transcription"
        with connect(url) as inside:
            assert json.loads(inside.recv(timeout=60))["type"] == "session.created"
            server.send_signal(signal.SIGTERM)
            assert "ending when 1 sessions have" in server.stderr.readline()
            with connect(url) as late:
                assert json.loads(late.recv(timeout=60))["error"]["code"] == "server_draining"
            inside.send(json.dumps({"type": "session.update", "session": {"type": "transcription"}}))
            assert json.loads(inside.recv(timeout=60))["type"] == "session.updated"
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.communicate()
