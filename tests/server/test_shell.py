"""The shell of a session: actions go to rooms, what comes back steps the conversation, and no fault ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import numpy as np
import pytest

from vivavoce.server import events, signals
from vivavoce.server.conversation import Conversation
from vivavoce.server.house import House
from vivavoce.server.protocol import Protocol
from vivavoce.server.shell import AHEAD, Shell
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.turn import TurnConfig
from vivavoce.speech.vad import Vad

Make = Callable[[int], Recognizer]


class Scripted:
    """A conversation that answers what it is told to, and remembers what came in."""

    wake_at: int | None = None

    def __init__(self) -> None:
        self.answers: dict[type, Sequence[Any]] = {}
        self.seen: list[Any] = []

    def step(self, what: Any, now: int) -> Sequence[Any]:
        self.seen.append(what)
        return self.answers.pop(type(what), ())

    def end(self, now: int) -> Sequence[Any]:
        return ()


def run(make: Make, test: Callable[[Shell, Scripted], Coroutine[Any, Any, None]], *, open_rooms: bool = False) -> House:
    house = House.build("tiny", make, Vad.load(), places=1)

    async def main() -> None:
        house.hearing.enter()
        script = Scripted()
        shell = Shell(house, cast(Conversation, script), Protocol())
        if not open_rooms:
            await test(shell, script)
            return
        async with house.open():
            await test(shell, script)

    asyncio.run(main())
    return house


async def sent(shell: Shell) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads(await shell.outgoing.get() or "{}"))


def test_what_the_house_does_not_have_fails_softly(recognizer: Make) -> None:
    async def test(shell: Shell, script: Scripted) -> None:
        prompt = signals.Prompt(())
        script.answers[events.Refused] = [signals.StartReply(1, prompt), signals.StartSpeaking(2, "default", 1.0)]
        shell.receive("no event")
        kinds = [type(what) for what in script.seen]
        assert kinds == [events.Refused, signals.NoReply, signals.Hoarse]
        assert "--llm" in script.seen[1].message
        assert "--voice" in script.seen[2].message

    run(recognizer, test)


def test_with_every_place_taken_a_watch_may_be_begun_anew(recognizer: Make) -> None:
    async def test(shell: Shell, script: Scripted) -> None:
        rule, pcm = TurnConfig(), np.zeros(512, np.float32)
        first = [signals.StartWatching(1, rule), signals.Watch(1, pcm), signals.StopWatching(1)]
        script.answers[events.Refused] = [*first, signals.StartWatching(2, rule), signals.Watch(2, pcm)]
        shell.receive("no event")  # the rooms do not run yet
        async with shell.house.open():
            for _ in range(2):  # before its first step, and after
                await asyncio.wrap_future(shell.house.voice.ask(lambda: None))
        assert [type(what) for what in script.seen] == [events.Refused, signals.Voiced]
        assert script.seen[1].watch == 2

    run(recognizer, test)


def test_a_mistake_in_the_conversation_is_told_and_the_session_goes_on(
    recognizer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(shell: Shell, script: Scripted) -> None:
        script.answers[events.Refused] = cast(Any, 7)
        shell.receive("no event")
        assert (await sent(shell))["error"]["code"] == "internal_error"
        script.answers[events.Refused] = [events.Cleared(event_id="e")]
        shell.receive("no event")
        assert (await sent(shell))["type"] == "input_audio_buffer.cleared"

    run(recognizer, test)
    assert "a conversation failed on a Refused" in caplog.text


def test_a_client_is_read_no_faster_than_the_rooms_hear(recognizer: Make) -> None:
    async def test(shell: Shell, script: Scripted) -> None:
        pcm = np.zeros(round((AHEAD + 1) * 16000), np.float32)
        script.answers[events.Refused] = [signals.StartHearing(1, 6), signals.Hear(1, pcm)]
        shell.receive("no event")  # more waits than may
        await asyncio.wait_for(shell.ready(), 60)
        heard = [what for what in script.seen if isinstance(what, signals.Heard)]
        assert heard
        assert heard[0].stream == 1

    run(recognizer, test, open_rooms=True)


def test_ending_twice_gives_one_place_back_and_nothing_steps_it_any_more(recognizer: Make) -> None:
    async def test(shell: Shell, script: Scripted) -> None:
        shell.end()
        shell.end()
        shell.receive("no event")
        assert script.seen == []
        assert await shell.outgoing.get() is None

    assert run(recognizer, test).hearing.taken == 0
