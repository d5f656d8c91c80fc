"""A long session at high speed: every utterance is heard as the first was, its times do not drift, nothing grows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import numpy as np
import pytest
from serving import resident, running
from websockets.sync.client import connect

from vivavoce.recipes import sample
from vivavoce.recipes.data.voices import say
from vivavoce.server import app
from vivavoce.server.encode import pcm16
from vivavoce.server.house import House
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.vad import WINDOW, Vad

PERIOD = 160 * WINDOW  # 5.12 s
SESSION = {"type": "transcription", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("utterances", [5, pytest.param(703, marks=pytest.mark.slow)])  # half a minute, an hour
def test_the_last_is_heard_like_the_first(recognizer: Callable[[int], Recognizer], utterances: int) -> None:
    pcm = say("seven days at sea", sample.VOICE).astype(np.float32)
    assert len(pcm) < PERIOD - 32000
    block = pcm16(np.pad(pcm, (8000, PERIOD - 8000 - len(pcm))))
    house = House.build("tiny", recognizer, Vad.load(), places=1)
    house.hearing.slack = float("inf")
    starts, transcripts, memory = list[int](), list[str](), list[int]()
    with (
        running(app.build(house)) as at,
        connect(f"ws://{at}/v1/realtime?intent=transcription", ping_interval=None) as socket,
    ):
        socket.send(json.dumps({"type": "session.update", "session": SESSION}))

        def talk() -> None:
            for _ in range(utterances):
                for i in range(0, len(block), 16000):  # half a second a message, as fast as they are taken
                    socket.send(block[i : i + 16000])

        talking = threading.Thread(target=talk)
        talking.start()
        while len(transcripts) < utterances:
            event = json.loads(socket.recv(timeout=300))
            assert event["type"] != "error", event
            if event["type"] == "input_audio_buffer.speech_started":
                starts.append(event["audio_start_ms"])
            if event["type"].endswith("transcription.completed"):
                transcripts.append(event["transcript"])
                if len(transcripts) % 16 == 1:
                    memory.append(resident())
        talking.join()
        assert len(house.hearing._inside) == 0
    assert np.abs(np.diff(starts) - PERIOD / 16).max() <= 64
    assert abs(starts[-1] - starts[0] - (utterances - 1) * PERIOD / 16) <= 64
    assert len(set(transcripts[1:])) <= 2  # a window more or less of silence before it may change a word
    assert memory[-1] - memory[len(memory) // 4] < 50e6
