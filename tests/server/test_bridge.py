"""Between the event loop and a room: words and sound for `async for`, and nobody runs ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import torch
from babble import noise
from hum import Hum, hum

from vivavoce.server.bridge import Listener, Speaker, on_loop
from vivavoce.server.rooms.hearing import HearingRoom
from vivavoce.server.rooms.speaking import SpeakingRoom
from vivavoce.speech.asr.recognizer import Recognizer

Make = Callable[[int], Recognizer]


def test_a_listener_hears_a_recording_no_faster_than_the_room(recognizer: Make) -> None:
    pcm, most = noise(3, seed=1), 0

    async def listen(room: HearingRoom) -> list[str]:
        nonlocal most
        listener = Listener(room, lookahead=6, waiting=1.0)

        async def feed() -> None:
            nonlocal most
            for i in range(0, len(pcm), 1600):
                await listener.push(pcm[i : i + 1600])
                most = max(most, listener._waiting)
            listener.finish()

        feeding = asyncio.create_task(feed())
        words = [word.word async for heard in listener for word in heard.words]
        await feeding
        listener.close()
        return words

    with HearingRoom(recognizer(1)) as room:
        words = asyncio.run(listen(room))
        assert room.taken == 0
    assert words == [w.word for w in recognizer(1).transcribe(torch.from_numpy(pcm), lookahead=6).words]
    assert most <= 16000


def test_a_model_that_fails_is_told_to_who_listens(recognizer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recognizer(1)
    monkeypatch.setattr(made, "step", lambda *a: 1 // 0)

    async def listen(room: HearingRoom) -> None:
        listener = Listener(room, lookahead=6)
        listener.finish()
        with pytest.raises(ZeroDivisionError):
            [heard async for heard in listener]
        listener.close()

    with HearingRoom(made) as room:
        asyncio.run(listen(room))


def test_a_speaker_says_all_of_its_text() -> None:
    async def speak(room: SpeakingRoom) -> list[np.ndarray]:
        speaker = Speaker(room)
        speaker.say("one two three")
        return [spoken.pcm async for spoken in speaker]

    with SpeakingRoom(Hum(), 1) as room:
        parts = asyncio.run(speak(room))
    assert len(parts) == 3
    assert np.array_equal(np.concatenate(parts), np.concatenate([hum(w) for w in ("one ", "two ", "three")]))


def test_what_comes_after_the_loop_has_ended_is_dropped() -> None:
    async def make() -> Callable[[int], None]:
        return on_loop(lambda n: None)

    asyncio.run(make())(1)
