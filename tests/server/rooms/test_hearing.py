"""Many live sessions in one room: the words of one pass, deadlines, admission, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from babble import noise

from vivavoce.server.rooms.hearing import Deaf, Heard, Hearing, HearingRoom
from vivavoce.server.rooms.room import Busy, Step
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.words import Word
from vivavoce.speech.errors import BadAudio
from vivavoce.speech.punctuate import Punctuator, Writer
from vivavoce.streaming.errors import BadLookahead

Make = Callable[[int], Recognizer]


class Kept:
    """A sink that remembers and can be waited for."""

    def __init__(self) -> None:
        self.events: list[Heard | Deaf] = []
        self._queue: SimpleQueue[Heard | Deaf] = SimpleQueue()

    def __call__(self, event: Heard | Deaf) -> None:
        self.events.append(event)
        self._queue.put(event)

    def next(self) -> Heard | Deaf:
        return self._queue.get(timeout=300)

    def words(self) -> list[tuple[str, int, int]]:
        """All of them, once the session has ended."""
        while True:
            event = self.next()
            assert isinstance(event, Heard)
            if event.last:
                return said(word for e in self.events if isinstance(e, Heard) for word in e.words)


def pushed(hearing: Hearing, pcm: np.ndarray, size: int) -> None:
    for i in range(0, len(pcm), size):
        hearing.push(pcm[i : i + size])
    hearing.finish()


def alone(make: Make, pcm: np.ndarray, lookahead: int) -> list[tuple[str, int, int]]:
    return said(make(1).transcribe(torch.from_numpy(pcm), lookahead=lookahead).words)


def said(words: Iterable[Word]) -> list[tuple[str, int, int]]:
    return [(word.word, word.start_sample, word.stop_sample) for word in words]


def test_sessions_of_every_kind_each_get_the_words_of_one_pass(recognizer: Make) -> None:
    lookaheads, sizes = [6, 0, 6, 1, 13], [320, 1, 5000, 1600, 100_000]
    sounds = [noise(2 + i * 0.3, seed=i)[: 500 if sizes[i] == 1 else None] for i in range(5)]
    with HearingRoom(recognizer(5)) as room:
        sinks = [Kept() for _ in sounds]
        for sink, pcm, lookahead, size in zip(sinks, sounds, lookaheads, sizes, strict=True):
            pushed(room.open(sink, lookahead=lookahead), pcm, size)
        for sink, pcm, lookahead in zip(sinks, sounds, lookaheads, strict=True):
            assert sink.words() == alone(recognizer, pcm, lookahead)
        assert room.ask(lambda: room.recognizer.engine.free).result(60) == 5


def test_words_are_written_the_same_live_as_at_once(recognizer: Make) -> None:
    writer = Writer(Punctuator.load())
    sounds = [noise(2 + i, seed=i) for i in range(2)]
    with HearingRoom(recognizer(2), writer=writer) as room:
        sinks = [Kept() for _ in sounds]
        for sink, pcm in zip(sinks, sounds, strict=True):
            pushed(room.open(sink, lookahead=1), pcm, 1600)
        for sink, pcm in zip(sinks, sounds, strict=True):
            plain = recognizer(1).transcribe(torch.from_numpy(pcm), lookahead=1)
            written = said(writer.transcript(plain).words)
            assert sink.words() == written != said(plain.words)


def test_a_chunk_is_heard_as_soon_as_it_can_be_and_nothing_before(recognizer: Make) -> None:
    with HearingRoom(recognizer(1)) as room:
        sink = Kept()
        hearing = room.open(sink, lookahead=6)
        first = room.boundary(0, 6)
        pcm = noise(3)
        hearing.push(pcm[: first - 1])
        assert room.ask(lambda: len(sink.events)).result(60) == 0
        hearing.push(pcm[first - 1 : first])
        event = sink.next()
        assert isinstance(event, Heard)
        assert (event.at_sample, event.taken, event.last) == (first, first, False)
        hearing.push(pcm[first : first + room.clock.chunk_samples(6)])
        assert isinstance(event := sink.next(), Heard)
        assert event.at_sample == first + room.clock.chunk_samples(6)


def test_the_lookahead_changes_at_a_chunk_and_times_go_on(recognizer: Make) -> None:
    pcm = noise(3, seed=4)
    with HearingRoom(recognizer(1)) as room:
        sink = Kept()
        hearing = room.open(sink, lookahead=6)
        hearing.push(pcm[:9000])
        assert isinstance(sink.next(), Heard)
        hearing.set_lookahead(0)
        pushed(hearing, pcm[9000:], 640)
        words = sink.words()
        steps = [e.at_sample for e in sink.events if isinstance(e, Heard)]
    assert steps[0] == room.boundary(0, 6)
    assert np.diff(steps[:-1]).tolist() == [room.clock.frame] * (len(steps) - 2)
    assert all(stop <= start for (_, _, stop), (_, start, _) in pairwise(words))


def test_streams_beyond_the_slots_wait_for_one_and_lose_nothing(recognizer: Make) -> None:
    sounds, sinks = [noise(1.5, seed=i) for i in range(4)], [Kept() for _ in range(4)]
    with HearingRoom(recognizer(1), places=2) as room:
        for sink, pcm in zip(sinks, sounds, strict=True):
            pushed(room.open(sink), pcm, 3000)
        assert [sink.words() for sink in sinks] == [alone(recognizer, pcm, 6) for pcm in sounds]


def test_a_full_room_refuses_until_a_place_is_given_back(recognizer: Make) -> None:
    room = HearingRoom(recognizer(3), places=2)
    room.enter()
    room.enter()
    with pytest.raises(Busy):
        room.enter()
    room.leave()
    room.enter()
    assert room.taken == 2


def test_a_room_that_is_behind_takes_nobody_more_until_it_has_caught_up(recognizer: Make) -> None:
    time = 0.0
    room = HearingRoom(recognizer(4), now=lambda: time)
    sink = Kept()
    room.enter()
    room.open(sink).push(noise(1))
    drained(room)
    time = 5.0
    assert room.tick()
    with pytest.raises(Busy, match=r"5\.0 s behind") as refusal:
        room.enter()
    assert refusal.value.retry_after >= 1
    time = 15.0
    room.enter()


def drained(room: HearingRoom) -> None:
    """Runs the calls that wait, as the room's thread would."""
    calls, room._inbox = room._inbox, []
    for call in calls:
        call()


def test_who_sends_faster_than_speech_waits_while_others_are_due(recognizer: Make) -> None:
    time = 0.0
    steps: list[Step] = []
    room = HearingRoom(recognizer(3), now=lambda: time, observe=steps.append)  # its thread never runs
    flood, live = Kept(), Kept()
    flooding, living = room.open(flood, lookahead=0), room.open(live, lookahead=0)
    flooding.push(noise(3)[:1])
    flooding.push(noise(3)[1:])
    living.push(noise(3)[:200])
    drained(room)

    def given() -> tuple[int, int]:
        return len(flood.events), len(live.events)

    assert room.tick()
    assert room.tick()
    assert given() == (1, 1)
    time = 0.1  # both have said their second chunk
    living.push(noise(3)[200:1480])
    drained(room)
    assert room.tick()
    assert given() == (2, 2)
    assert room.tick()
    assert given() == (3, 2)  # nobody is due: the time goes to who is ahead
    time = 0.18  # the fourth of the flood would be said at 0.25 s
    living.push(noise(3)[1480:2760])
    drained(room)
    assert room.tick()
    assert given() == (3, 3)


def test_the_earliest_deadline_decides_the_lookahead_of_a_step(recognizer: Make) -> None:
    time, steps = 0.0, list[Step]()
    room = HearingRoom(recognizer(3), now=lambda: time, observe=steps.append)
    slow, quick, other = Kept(), Kept(), Kept()
    for sink, lookahead in ((slow, 13), (quick, 0), (other, 0)):
        room.open(sink, lookahead=lookahead).push(noise(2)[: room.boundary(0, lookahead)])
    drained(room)
    time = 2.0
    assert room.tick()
    assert [len(s.events) for s in (slow, quick, other)] == [0, 1, 1]
    assert room.tick()
    assert len(slow.events) == 1
    assert [step.rows for step in steps] == [2, 1]
    assert steps[0].lag == pytest.approx(2.0, abs=0.02)


def test_a_batch_of_one_serves_one_session_a_step(recognizer: Make) -> None:
    steps: list[Step] = []
    sinks = [Kept() for _ in range(3)]
    with HearingRoom(recognizer(3), batch=1, observe=steps.append) as room:
        for i, sink in enumerate(sinks):
            pushed(room.open(sink), noise(1, seed=i), 4000)
        assert [s.words() for s in sinks] == [alone(recognizer, noise(1, seed=i), 6) for i in range(3)]
    assert {step.rows for step in steps} == {1}


def test_bad_samples_and_lookaheads_are_the_callers_errors(recognizer: Make) -> None:
    with HearingRoom(recognizer(1)) as room:
        with pytest.raises(BadLookahead, match="70"):
            room.open(Kept(), lookahead=70)
        with pytest.raises(BadAudio, match="NaN"):
            room.open(Kept()).push(np.full(5, np.nan, np.float32))


def test_a_model_that_fails_ends_its_sessions_and_the_room_goes_on(
    recognizer: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = recognizer(2)
    step: Any = made.step
    monkeypatch.setattr(made, "step", lambda *a: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with HearingRoom(made) as room:
        sink = Kept()
        room.open(sink).push(noise(1))
        event = sink.next()
        assert isinstance(event, Deaf)
        assert str(event.error) == "out of memory"
        monkeypatch.setattr(made, "step", step)
        sink = Kept()
        pushed(room.open(sink), noise(1), 4000)
        assert sink.words() == alone(recognizer, noise(1), 6)
        assert room.ask(lambda: room.recognizer.engine.free).result(60) == 2
