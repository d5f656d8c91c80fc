"""Recordings and speech over HTTP, with OpenAI's own client as it is, and what tells others about the server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
import torch
from babble import noise
from hum import RATE, Hum, hum
from serving import running

from vivavoce.server import app
from vivavoce.server.encode import pcm16
from vivavoce.server.guard import Limits
from vivavoce.server.house import House
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.errors import BadSpeech
from vivavoce.speech.vad import Vad

Make = Callable[[int], Recognizer]
TEXT = "and so they sailed away"


@pytest.fixture(scope="module")
def at(recognizer: Make) -> Iterator[str]:
    house = House.build("tiny", recognizer, Vad.load(), places=1, synthesizer=Hum(), voices=4, speaker="hum")
    with running(app.build(house, Limits(body_bytes=2**20))) as address:
        yield f"http://{address}"


@pytest.fixture
def client(at: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{at}/v1", api_key="none", max_retries=0) as client:
        yield client


def wav(pcm: np.ndarray) -> tuple[str, bytes]:
    out = io.BytesIO()
    soundfile.write(out, pcm, 16000, format="WAV")
    return "talk.wav", out.getvalue()


def expected(make: Make, pcm: np.ndarray, lookahead: int = 69) -> str:
    heard = np.frombuffer(pcm16(pcm), "<i2").astype(np.float32) / 32768
    return make(1).transcribe(torch.from_numpy(heard), lookahead=lookahead).text


def exact(pcm: np.ndarray) -> np.ndarray:
    """What 16 bits hold without rounding again."""
    return np.frombuffer(pcm16(pcm), "<i2").astype(np.float32) / 32768


def test_the_official_client_transcribes_a_file_in_every_form(client: openai.OpenAI, recognizer: Make) -> None:
    pcm = exact(noise(7, seed=1))
    text = recognizer(1).transcribe(torch.from_numpy(pcm)).text
    assert len(text.split()) > 5
    create: Any = client.audio.transcriptions.create
    assert create(file=wav(pcm), model="whisper-1").text == text
    assert create(file=wav(pcm), model="tiny", response_format="text") == f"{text}\n"
    assert create(file=wav(pcm), model="tiny", response_format="vtt").startswith("WEBVTT\n\n00:00:")
    assert create(file=wav(pcm), model="tiny", response_format="srt").startswith("1\n00:00:")
    verbose = create(file=wav(pcm), model="tiny", response_format="verbose_json", timestamp_granularities=["word"])
    assert [word.word for word in verbose.words] == text.split()
    assert verbose.duration == pytest.approx(7.0)
    assert " ".join(segment.text for segment in verbose.segments) == text


def test_the_official_client_gets_words_as_they_are_heard(client: openai.OpenAI, recognizer: Make) -> None:
    pcm = exact(noise(3, seed=2))
    text = recognizer(1).transcribe(torch.from_numpy(pcm), lookahead=6).text
    create: Any = client.audio.transcriptions.create
    events = list(create(file=wav(pcm), model="tiny", stream=True, extra_body={"lookahead_ms": 480}))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(deltas) == events[-1].text == text
    assert len(deltas) > 2


@pytest.mark.parametrize("form", ["wav", "mp3", "opus", "flac", "pcm"])
def test_the_official_client_has_a_text_spoken(client: openai.OpenAI, form: Any) -> None:
    said = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format=form).read()
    if form == "pcm":
        assert said == pcm16(np.concatenate([hum(w) for w in ("and ", "so ", "they ", "sailed ", "away")]))
    elif form == "flac":
        assert said.startswith(b"fLaC")
    else:
        pcm, rate = soundfile.read(io.BytesIO(said), dtype="float32")
        assert rate == RATE
        assert abs(len(pcm) - len(hum(TEXT))) < RATE // 10


def test_speech_is_streamed_as_events_too(client: openai.OpenAI) -> None:
    body = {"model": "hum", "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    lines = httpx.post(f"{client.base_url}audio/speech", json=body).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [e["type"] for e in events] == ["speech.audio.delta"] * 5 + ["speech.audio.done"]


def test_speech_that_breaks_off_says_why_in_its_events(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    push = Hum.push

    def failing(voice: Hum, slot: int, text: str) -> None:
        if "end" in text:
            raise BadSpeech("this cannot be said")
        push(voice, slot, text)

    monkeypatch.setattr(Hum, "push", failing)
    body = {"model": "hum", "input": f"{TEXT} " * 10 + "end", "response_format": "pcm", "stream_format": "sse"}
    lines = httpx.post(f"{at}/v1/audio/speech", json=body).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert {e["type"] for e in events[:-1]} == {"speech.audio.delta"}
    assert events[-1] == {
        "type": "error", "error": {"type": "invalid_request_error", "message": "this cannot be said"}
    }  # fmt: skip


FILE = ("talk.wav", b"not audio")


@pytest.mark.parametrize(
    ("form", "status", "message"),
    [
        ({"model": "gpt-9"}, 404, "there is no model 'gpt-9' here"),
        ({"model": "hum"}, 400, "'hum' is for something else; send one of tiny, whisper-1"),
        ({"model": "tts-1"}, 400, "'tts-1' is for something else"),
        ({"model": "tiny"}, 400, "talk.wav is not audio"),
        ({"model": "tiny", "stream": "true"}, 400, "talk.wav is not audio"),
        ({"model": "tiny", "response_format": "rtf"}, 400, "choose json, text"),
        ({"model": "tiny", "lookahead_ms": "9000"}, 400, "number of ms from 0 to 5520"),
        ({"model": "tiny", "beams": "8"}, 400, "unknown field 'beams'"),
    ],
)
def test_what_is_wrong_with_a_recording_is_said(at: str, form: dict[str, str], status: int, message: str) -> None:
    answer = httpx.post(f"{at}/v1/audio/transcriptions", data=form, files={"file": FILE})
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"input": ""}, 400, "input is empty"),
        ({"input": "<wrong"}, 500, "made a mistake"),
        ({"speed": 4.0}, 400, "speed: Input should be less than or equal to 2"),
        ({"speed": 0.25}, 400, "speed: Input should be greater than or equal to 0.5"),
        ({"input": f"<speak>{TEXT * 20}<emphasis>oh</emphasis></speak>"}, 400, "<emphasis> is not among"),
        ({"input": f"<speak>{TEXT * 20}", "stream_format": "sse"}, 400, "never closed"),
        ({"response_format": "aac"}, 400, "choose one of wav, mp3"),
        ({"model": "gpt-9"}, 404, "no model"),
        ({"model": "tiny"}, 400, "'tiny' is for something else; send one of hum, tts-1"),
        ({"colour": "red"}, 400, "colour: "),
        ({"stream_format": "x"}, 400, "choose audio or sse"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_is_wrong_with_a_text_is_said(at: str, change: dict[str, Any], status: int, message: str) -> None:
    answer = httpx.post(f"{at}/v1/audio/speech", json={"model": "hum", "input": TEXT} | change)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"[1]", b"\xff", b'"text"'])
def test_a_body_that_is_no_json_object_is_said(at: str, body: bytes) -> None:
    answer = httpx.post(f"{at}/v1/audio/speech", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("the body: ")


@pytest.mark.parametrize("form", ["pcm", "wav", "flac"])
def test_a_text_of_which_nothing_can_be_said_is_refused(at: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hum.hum", lambda text: np.zeros(0, np.float32))
    answer = httpx.post(f"{at}/v1/audio/speech", json={"model": "hum", "input": "\u8a71", "response_format": form})
    assert answer.status_code == 400
    assert "nothing in input" in answer.json()["error"]["message"]


def test_a_missing_or_too_large_file_is_said(at: str) -> None:
    answer = httpx.post(f"{at}/v1/audio/transcriptions", data={"model": "tiny"}, files={"other": FILE})
    assert answer.status_code == 400
    large = ("talk.wav", bytes(2**20 + 1))
    assert httpx.post(f"{at}/v1/audio/transcriptions", data={"model": "tiny"}, files={"file": large}).status_code == 413


def test_models_are_listed_with_the_names_that_clients_know(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"tiny", "whisper-1", "hum", "tts-1", "gpt-realtime"} <= set(names)
    assert client.models.retrieve("whisper-1").id == "whisper-1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_health_and_metrics(at: str, client: openai.OpenAI) -> None:
    assert httpx.get(f"{at}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{at}/readyz").json() == {"status": "ready", "sessions": 0, "places": 1}
    text = httpx.get(f"{at}/metrics").text
    assert 'vivavoce_step_seconds_count{room="files"}' in text
    assert "vivavoce_hearing_places 1.0" in text


def test_what_is_not_there_is_said_in_the_same_shape(at: str) -> None:
    answer = httpx.get(f"{at}/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert httpx.get(f"{at}/v1/audio/speech").status_code == 405
