"""Who is speaking, for many at once: the events of one alone, whatever the pushes; a fault ends only what it hit."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vivavoce.recipes import sample
from vivavoce.recipes.data.voices import say
from vivavoce.server.rooms.voice import Mute, Voice, VoiceRoom, _certain
from vivavoce.speech.turn import SpeechEnded, SpeechStarted, Turn, TurnConfig, TurnEvent
from vivavoce.speech.vad import WINDOW, Vad

Sink = SimpleQueue[Voice | Mute]


@pytest.fixture(scope="module")
def vad() -> Vad:
    return Vad.load()


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    """Silence, a sentence, silence; whole windows."""
    pcm = np.pad(say(sample.SENTENCE, sample.VOICE).astype(np.float32), (8000, 16000))
    return pcm[: len(pcm) // WINDOW * WINDOW]


def events(sink: Sink, until: int) -> list[TurnEvent]:
    """All of them up to a sample."""
    out: list[TurnEvent] = []
    while True:
        voice = sink.get(timeout=300)
        assert isinstance(voice, Voice)
        out += voice.events
        if voice.at_sample >= until:
            return out


def alone(vad: Vad, pcm: NDArray[np.float32], config: TurnConfig) -> list[TurnEvent]:
    """Silence alone decides: the recogniser never changed anything."""
    no, n = torch.tensor([False]), torch.tensor([len(pcm)])
    probabilities, count = vad.step(torch.from_numpy(pcm)[None], vad.init_state(1), n, no)
    turn = Turn(config)
    return turn.step(probabilities, turn.init_state(1), count, no)[0]


def test_everyone_gets_the_events_of_one_alone_whatever_the_pushes(vad: Vad, speech: NDArray[np.float32]) -> None:
    configs = [TurnConfig(), TurnConfig(end_silence=3200, end_blank=3200), TurnConfig(threshold=0.8)]
    sinks = [Sink() for _ in configs]
    with VoiceRoom(vad, 3, gather=0.0) as room:
        for sink, config, size in zip(sinks, configs, (320, 5000, len(speech)), strict=True):
            watching = room.open(sink.put, config)
            for i in range(0, len(speech), size):
                watching.push(speech[i : i + size])
        found = [events(sink, len(speech)) for sink in sinks]
    assert found == [alone(vad, speech, config) for config in configs]
    assert [type(e) for e in found[0]] == [SpeechStarted, SpeechEnded]


def test_an_utterance_does_not_end_while_the_recogniser_still_writes(vad: Vad, speech: NDArray[np.float32]) -> None:
    sink = Sink()
    config = TurnConfig(end_silence=3200, end_blank=8000)
    with VoiceRoom(vad, 1, gather=0.0) as room:
        watching = room.open(sink.put, config)
        watching.changed(len(speech) - 4000)
        watching.push(speech)
        started = events(sink, len(speech))
    assert [type(e) for e in started] == [SpeechStarted]


def test_a_new_rule_holds_from_the_next_window_on(vad: Vad, speech: NDArray[np.float32]) -> None:
    sink = Sink()
    with VoiceRoom(vad, 1, gather=0.0) as room:
        watching = room.open(sink.put, TurnConfig(threshold=0.999, hysteresis=0.0))
        watching.configure(TurnConfig())
        watching.push(speech)
        assert events(sink, len(speech)) == alone(vad, speech, TurnConfig())


def test_nothing_is_heard_of_a_closed_one_and_the_next_has_its_slot(vad: Vad, speech: NDArray[np.float32]) -> None:
    sink = Sink()
    with VoiceRoom(vad, 1, gather=0.0) as room:
        watching = room.open(sink.put)
        watching.close()
        watching.close()
        watching.push(speech)
        room.ask(lambda: None).result(60)
        assert sink.empty()
        room.open(sink.put).push(speech)
        assert events(sink, len(speech))
        assert room.taken == 1


def test_who_comes_while_every_slot_is_taken_is_watched_from_its_first_sample_once_one_is_free(
    vad: Vad, speech: NDArray[np.float32]
) -> None:
    before, waiting, gone = Sink(), Sink(), Sink()
    with VoiceRoom(vad, 1, gather=0.0) as room:
        first = room.open(before.put)
        first.push(speech)
        assert events(before, len(speech))
        second, third = room.open(waiting.put), room.open(gone.put)
        for watching in (second, third):
            watching.configure(TurnConfig(threshold=0.8))
            watching.push(speech)
        third.close()
        assert room.ask(lambda: room.taken).result(60) == 1
        first.close()
        assert events(waiting, len(speech)) == alone(vad, speech, TurnConfig(threshold=0.8))
        assert gone.empty()


def test_a_network_that_fails_ends_its_sessions_and_the_room_goes_on(
    vad: Vad, speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("no memory")

    with VoiceRoom(vad, 1, gather=0.0) as room:
        sink = Sink()
        with monkeypatch.context() as patch:
            patch.setattr(Vad, "step", broken)
            room.open(sink.put).push(speech)
            assert isinstance(sink.get(timeout=300), Mute)
        room.open(sink.put).push(speech)
        assert events(sink, len(speech))
    assert "failed for 1 sessions" in caplog.text


@pytest.mark.parametrize("config", [TurnConfig(end_silence=3000, end_blank=0), TurnConfig(max_utterance=9000)])
def test_no_utterance_ends_before_it_was_certain_to_go_on(config: TurnConfig) -> None:
    turn, promised, ends = Turn(config), 0, 0
    state = turn.init_state(1)
    generator = torch.Generator().manual_seed(0)
    loud = (torch.rand(1000, generator=generator) > 0.5).repeat_interleave(4).float()
    for probability in loud:
        (found,) = turn.step(probability.view(1, 1), state, torch.tensor([1]), torch.tensor([False]))
        for event in found:
            if isinstance(event, SpeechEnded):
                assert event.decided_at >= promised > 0
                promised, ends = 0, ends + 1
        now = int(_certain(state))
        assert (now > 0) == bool(state.speaking)
        promised = max(promised, now)
    assert ends > 20
