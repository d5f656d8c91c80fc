"""One server's rooms: their places, their names for others, their life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hum import Hum

from vivavoce.server.house import House
from vivavoce.server.replies import EndpointReplies
from vivavoce.server.rooms.room import Closed
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.vad import Vad

Make = Callable[[int], Recognizer]


def test_there_are_slots_to_spare_for_streams_that_are_being_finished(recognizer: Make) -> None:
    house = House.build("tiny", recognizer, Vad.load(), places=8, uploads=3)
    assert (house.hearing.places, house.hearing.recognizer.engine.free) == (8, 10)
    assert (house.voice.places, house.files.places) == (8, 3)
    assert [room.name for room in house.rooms] == ["hearing", "voice", "files"]


def test_models_answer_to_the_names_that_clients_know(recognizer: Make) -> None:
    deaf = House.build("tiny", recognizer, Vad.load(), places=1)
    assert deaf.knows("tiny")
    assert deaf.knows("whisper-1")
    assert not deaf.knows("tts-1")
    assert deaf.speaks == ()
    speaking = House.build("tiny", recognizer, Vad.load(), places=1, synthesizer=Hum(), voices=4, speaker="hum")
    assert speaking.knows("hum")
    assert speaking.knows("gpt-realtime")
    assert "gpt-realtime" not in speaking.speaks + speaking.hears  # that is a conversation's
    assert not set(speaking.speaks) & set(speaking.hears)


def test_rooms_close_with_the_house(recognizer: Make) -> None:
    replies = EndpointReplies("http://127.0.0.1:1/v1")
    house = House.build("tiny", recognizer, Vad.load(), places=1, replies=replies)

    async def live() -> None:
        async with house.open():
            house.hearing.enter()

    asyncio.run(live())
    with pytest.raises(Closed):
        house.hearing.enter()
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(replies._client.get("http://127.0.0.1:1"))
