"""How long a reply takes: timed against a scripted server, and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from scripted import RATE, Scripted, Wire, scripted

from vivavoce.recipes import voice_to_voice
from vivavoce.recipes.agent import NoServer, connected, session
from vivavoce.recipes.voice_to_voice import Caller, Turn, measure, spoken, table
from vivavoce.speech.errors import MissingDependency


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted([]) as serving:
        yield serving


def address(server: Scripted) -> str:
    return server.url.replace("http", "ws")


def question() -> np.ndarray:
    return np.full(RATE // 5, 9000, np.int16)


async def answers(wire: Wire) -> None:
    """Two silent blocks after a question, then answers in a tenth of a second of sound."""
    await wire.begin()
    for number in range(1, 4):
        asked = len(question()) * number
        await wire.until(lambda asked=asked: np.count_nonzero(np.frombuffer(wire.pcm, "<i2")) >= asked)
        end = len(wire.pcm)
        await wire.until(lambda end=end: len(wire.pcm) >= end + 2 * 960)
        stages = [{"name": "silence", "ms": 40.0}, {"name": "voice", "ms": 10.0 * number}]
        await wire.send("vivavoce.stats", response_id="r", stages=stages)
        await wire.reply(f"a{number}", np.full(RATE // 10, 1000, np.int16), response=f"r{number}")


def test_a_turn_is_timed_from_the_last_sample_said_to_the_first_heard(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice_to_voice, "QUIET", 0.1)
    server.play(answers)
    with connected(address(server)) as socket:
        socket.send(json.dumps(session(80)))
        caller = Caller(socket)
        turns = [caller.ask(question()) for _ in range(2)]
    server.check()
    assert all(turn.total >= 40 for turn in turns)  # the two silent blocks
    assert [turn.stages["voice"] for turn in turns] == [10, 20]
    sent = np.frombuffer(server.wires[0].pcm, "<i2")
    assert np.count_nonzero(sent) == 2 * len(question())


def test_the_first_question_only_warms_up(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_to_voice, "spoken", lambda text: question())
    monkeypatch.setattr(voice_to_voice, "QUIET", 0.1)
    server.play(answers)
    turns = measure(address(server), 1, lookahead=80)
    server.check()
    assert [turn.stages["voice"] for turn in turns] == [20]
    settings = server.wires[0].all("session.update")[0]["session"]
    assert settings["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300


def test_a_server_without_an_answer_is_an_error(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(wire: Wire) -> None:
        await wire.begin()

    async def broken(wire: Wire) -> None:
        await wire.begin()
        await wire.send("response.done", response={"id": "r", "status": "failed"})

    for script, words, patience in [(silent, "no answer within", 0.1), (broken, "could not answer", 300)]:
        monkeypatch.setattr(voice_to_voice, "PATIENCE", patience)
        server.play(script)
        with connected(address(server)) as socket, pytest.raises(NoServer, match=words):
            Caller(socket).ask(question())


def test_a_question_ends_with_its_last_sound() -> None:
    try:
        pcm = spoken("what is your name?")
    except MissingDependency as e:
        pytest.skip(str(e))
    assert 0.5 < len(pcm) / RATE < 3
    assert np.abs(pcm[-RATE // 50 :]).max() > 100


def test_the_table_has_a_row_a_stage_with_median_and_95th_percentile() -> None:
    turns = [Turn(500.0 + 10 * i, {"silence": 300.0, "voice": float(i)}) for i in range(101)]
    assert [line.split()[-2:] for line in table(turns).splitlines()[1:]] == [
        ["300", "300"], ["50", "95"], ["700", "1150"], ["1000", "1450"]]  # fmt: skip
