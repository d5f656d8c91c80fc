"""Clients that misbehave in every way, among some that behave: those get exactly their words, and nothing is left."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import torch
from babble import noise
from serving import resident, running
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from vivavoce.server import app
from vivavoce.server.encode import pcm16
from vivavoce.server.house import House
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.vad import Vad

PATH = "/v1/realtime?intent=transcription"
PATIENT: dict[str, Any] = {
    "compression": None,
    "open_timeout": None,
    "ping_interval": None,
}  # a busy machine is no fault
Make = Callable[[int], Recognizer]
Fault = Callable[[ClientConnection, random.Random], Awaitable[None]]
MANUAL = {"type": "transcription", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000},
                                                       "turn_detection": None}}}  # fmt: skip


async def garbage(socket: ClientConnection, rng: random.Random) -> None:
    for _ in range(20):
        await socket.send("".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(rng.randrange(60))))
        await socket.send(
            json.dumps(rng.choice([[], 1, None, {}, {"type": 3}, {"type": "session.update"}, {"type": "x"}]))
        )


async def half_frame(socket: ClientConnection, rng: random.Random) -> None:
    """A frame that says it holds 100 bytes, of which 10 come before the line is cut."""
    socket.transport.write(b"\x81\xfe\x00\x64" + rng.randbytes(14))
    socket.transport.abort()


async def one_byte(socket: ClientConnection, rng: random.Random) -> None:
    for _ in range(200):
        await socket.send(rng.randbytes(1))


async def wrong_base64(socket: ClientConnection, rng: random.Random) -> None:
    for text in ("?", "A", "====", "AAA", "\u00e9" * 40, "A" * 1001):
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": text}))


async def huge(socket: ClientConnection, rng: random.Random) -> None:
    await socket.send(json.dumps({"type": "session.update", "session": {"instructions": "x" * 2_000_000}}))
    await socket.send("[" * 100_000)
    await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 25_000_000}))


async def flood(socket: ClientConnection, rng: random.Random) -> None:
    """Audio as fast as it goes, for a minute of it, and no event read."""
    await socket.send(json.dumps({"type": "session.update", "session": MANUAL}))
    block = json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(rng.randbytes(32000)).decode()})
    for _ in range(60):
        await socket.send(block)


async def vanish(socket: ClientConnection, rng: random.Random) -> None:
    await socket.send(json.dumps({"type": "session.update", "session": MANUAL}))
    await socket.send(pcm16(noise(1)))
    socket.transport.abort()


FAULTS: list[Fault] = [garbage, half_frame, one_byte, wrong_base64, huge, flood, vanish]


async def misbehave(at: str, fault: Fault, seed: int) -> None:
    """Whatever the server does about it is right, unless it stops to answer."""
    try:
        async with connect(f"ws://{at}{PATH}", **PATIENT) as socket:
            await fault(socket, random.Random(seed))
    except (ConnectionClosed, OSError):
        return


async def behave(at: str, pcm: np.ndarray) -> str:
    """The transcript of a recording sent in pieces of 0.1 s."""
    async with connect(f"ws://{at}{PATH}", **PATIENT) as socket:
        await socket.send(json.dumps({"type": "session.update", "session": MANUAL}))
        for i in range(0, len(pcm), 1600):
            await socket.send(pcm16(pcm[i : i + 1600]))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        async for text in socket:
            event = json.loads(text)
            assert event["type"] != "error", event
            if event["type"] == "conversation.item.input_audio_transcription.completed":
                return str(event["transcript"])
    raise AssertionError("the server went away")


def together(make: Make, good: int, bad: int) -> None:
    """So many of both at once; afterwards no session, place, slot, thread or memory is held."""
    sounds = [noise(2 + i % 3, seed=i) for i in range(good)]
    expected = [make(1).transcribe(torch.from_numpy(sent(pcm)), lookahead=6).text for pcm in sounds]
    before = {t.name for t in threading.enumerate()}
    house = House.build("tiny", make, Vad.load(), places=good + bad)
    house.hearing.slack = float("inf")  # a slow machine is no reason to turn anybody away here
    application = app.build(house)
    realtime = application.state.realtime
    realtime.resume = 0.0

    async def everyone(at: str) -> list[str]:
        faults = [asyncio.create_task(misbehave(at, FAULTS[i % len(FAULTS)], i)) for i in range(bad)]
        transcripts = await asyncio.gather(*(behave(at, pcm) for pcm in sounds))
        await asyncio.gather(*faults)
        return transcripts

    with running(application) as at:
        assert asyncio.run(everyone(at)) == expected
        on(application, realtime.quiet())
        memory = resident()
        assert asyncio.run(everyone(at)) == expected  # and once more, to see that nothing grows
        on(application, realtime.drain(300))
        for room in house.rooms:
            room.ask(lambda: None).result(300)
        assert not realtime.sessions
        assert [room.taken for room in house.rooms] == [0, 0, 0]
        engine = house.hearing.recognizer.engine
        assert engine.free == engine.state.slots
        assert resident() - memory < 100e6
    assert {t.name for t in threading.enumerate()} <= before | {"asyncio_0"}


def on(application: Any, awaited: Coroutine[Any, Any, None]) -> None:
    """Wait for something on the server's event loop."""
    asyncio.run_coroutine_threadsafe(awaited, application.state.loop).result(300)


def sent(pcm: np.ndarray) -> np.ndarray:
    """What arrives of it in 16 bits."""
    return np.frombuffer(pcm16(pcm), "<i2").astype(np.float32) / 32768


def test_who_behaves_gets_its_words_whatever_the_others_do(recognizer: Make) -> None:
    together(recognizer, good=3, bad=len(FAULTS))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_among_two_hundred(recognizer: Make) -> None:
    together(recognizer, good=20, bad=200)
