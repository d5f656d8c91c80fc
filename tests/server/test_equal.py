"""The shipped recogniser over a real socket, as `serve` sets it up, against `vivavoce transcribe` on the same file."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from websockets.sync.client import connect

from vivavoce.recipes import cli, sample, serve
from vivavoce.recipes.data.voices import say
from vivavoce.server.rooms.hearing import Hearing

ROOT = Path(__file__).parents[2]
RATE = 16000
Pcm = NDArray[np.int16]


@pytest.fixture(scope="module")
def at() -> Iterator[str]:
    with serve.running(argparse.Namespace(device="cpu", voice="none", llm="none")) as url:
        yield url


@pytest.fixture(scope="module")
def recording() -> Pcm:
    """Two sentences with a pause that ends a turn."""
    spoken = np.rint(say(sample.SENTENCE, sample.VOICE) * 20000).astype(np.int16)
    quiet = np.random.default_rng(0).integers(-20, 20, 2 * RATE).astype(np.int16)
    return np.concatenate([quiet[: RATE // 2], spoken, quiet, spoken[: 2 * RATE], quiet])


def transcribed(pcm: Pcm, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The words of `vivavoce transcribe`."""
    soundfile.write(folder / "one.wav", pcm, RATE)
    capsys.readouterr()
    assert cli.main(["transcribe", str(folder / "one.wav"), "--lookahead", "480", "--format", "json"]) == 0
    return [word["word"] for word in json.loads(capsys.readouterr().out)["words"]]


def streamed(at: str, pcm: Pcm, turn_detection: Any, utterances: int, size: int = 320) -> list[list[str]]:
    """The words of each utterance, from the events that come while it is said."""
    said, done, order = dict[str, str](), dict[str, str](), list[str]()
    audio = {"input": {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": turn_detection}}
    with connect(f"{at}/v1/realtime?intent=transcription", ping_interval=None, open_timeout=None) as socket:
        socket.send(json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": audio}}))
        for i in range(0, len(pcm), size):
            socket.send(pcm[i : i + size].tobytes())
        if turn_detection is None:
            socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        while len(done) < utterances:
            event = json.loads(socket.recv(timeout=300))
            assert event["type"] != "error", event
            if event["type"].endswith("transcription.delta"):
                said[event["item_id"]] = said.get(event["item_id"], "") + event["delta"]
            if event["type"] == "input_audio_buffer.committed":
                order.append(event["item_id"])
            if event["type"].endswith("transcription.completed"):  # sent faster than spoken, a short one may be first
                done[event["item_id"]] = event["transcript"]
    assert {item: text.split() for item, text in said.items()} == {item: text.split() for item, text in done.items()}
    return [done[item].split() for item in order]


def test_without_turn_detection_the_words_are_those_of_the_file(
    at: str, recording: Pcm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = transcribed(recording, tmp_path, capsys)
    assert len(words) > 8
    assert streamed(at, recording, None, 1) == [words]
    assert streamed(at, recording, None, 1, size=len(recording)) == [words]


def test_with_turn_detection_they_are_those_of_each_utterance_as_a_file(
    at: str, recording: Pcm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the padding before its first sound to where its silence was long enough."""
    pieces: dict[Hearing, list[NDArray[np.float32]]] = {}
    push = Hearing.push

    def noted(hearing: Hearing, pcm: NDArray[np.float32]) -> None:
        pieces.setdefault(hearing, []).append(pcm)
        push(hearing, pcm)

    monkeypatch.setattr(Hearing, "push", noted)
    words = streamed(at, recording, {"type": "server_vad", "silence_duration_ms": 1000}, 2)
    sounds = [np.rint(np.concatenate(piece) * 32768).astype(np.int16) for piece in pieces.values()]
    assert len(sounds) == 2
    assert sum(map(len, sounds)) < len(recording) - RATE
    assert words == [transcribed(sound, tmp_path, capsys) for sound in sounds]
    assert all(len(said) > 2 for said in words)


@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning")  # as OpenAI's does not
def test_the_example_of_the_docs_runs(
    at: str, recording: Pcm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "SERVER.md").read_text(), re.DOTALL)
    (tmp_path / "build").mkdir()
    soundfile.write(tmp_path / "build" / "sample.wav", recording, RATE)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://localhost:8000", at.replace("ws", "http", 1)), {})
    assert capsys.readouterr().out.split() == transcribed(recording, tmp_path, capsys)
