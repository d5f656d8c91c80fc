"""What a client does in a conversation, event by event."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.recipes.duplex import (
    _ACTS,
    AGENT,
    TRANSCRIPTION,
    YOU,
    Clear,
    Duplex,
    Output,
    Pause,
    Play,
    Resume,
    Send,
    Show,
    Stages,
    Trouble,
)  # fmt: skip
from vivavoce.server import events

STARTED = {"type": "input_audio_buffer.speech_started", "item_id": "i1", "audio_start_ms": 400}
RESUMED = {"type": "vivavoce.output_audio.resumed", "item_id": "a1"}
CLEARED = {"type": "output_audio_buffer.cleared", "response_id": "r1"}


def sound(item: str = "a1") -> dict[str, Any]:
    pcm = np.arange(480, dtype="<i2").tobytes()
    return {"type": "response.output_audio.delta", "item_id": item, "delta": base64.b64encode(pcm).decode()}


def says(text: str, item: str = "a1") -> dict[str, Any]:
    return {"type": "response.output_audio_transcript.delta", "item_id": item, "delta": text}


def done(item: str = "a1") -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": {"id": item, "type": "message", "role": "assistant"}}


def response(status: str, **details: Any) -> dict[str, Any]:
    return {"type": "response.done", "response": {"id": "r1", "status": status, **details}}


def run(duplex: Duplex, *events: dict[str, Any], playing: bool = False) -> list[Output]:
    return [output for event in events for output in duplex.receive(event, playing)]


def test_sound_is_played_as_it_came() -> None:
    (play,) = run(Duplex(), sound())
    assert isinstance(play, Play)
    assert play.pcm.tolist() == list(range(480))


def test_speech_over_a_reply_pauses_it_once_and_over_silence_nothing() -> None:
    duplex = Duplex()
    assert run(duplex, STARTED) == []
    assert run(duplex, STARTED, STARTED, playing=True) == [Pause()]


def test_a_false_alarm_plays_on() -> None:
    duplex = Duplex()
    assert run(duplex, STARTED, RESUMED, playing=True) == [Pause(), Resume()]
    assert run(duplex, RESUMED) == []


@pytest.mark.parametrize("decision", [CLEARED, response("cancelled"),
                                      {"type": "response.created", "response": {"id": "r2"}}])  # fmt: skip
def test_an_interruption_clears_and_tells_the_server_what_was_heard(decision: dict[str, Any]) -> None:
    duplex = Duplex()
    assert run(duplex, sound(), STARTED, decision, playing=True)[1:] == [Pause(), Clear()]
    (send,) = duplex.cleared("a1", 12_345, 48_000)
    assert send == Send({"type": "conversation.item.truncate", "item_id": "a1", "content_index": 0,
                         "audio_end_ms": 514})  # fmt: skip
    assert run(duplex, sound(), says("late")) == []  # nothing more is wanted of it
    assert len(run(duplex, sound("a2"))) == 1


def test_a_reply_heard_to_its_end_is_not_truncated() -> None:
    assert Duplex().cleared("a1", 48_000, 48_000) == []


def test_your_words_grow_with_a_tail_and_end_as_a_line() -> None:
    deltas = [{"type": f"{TRANSCRIPTION}.delta", "item_id": "i1", "delta": d, "vivavoce": {"tail": t, "end_ms": 0}}
              for d, t in [("so", "we"), (" we", "")]]  # fmt: skip
    final = {"type": f"{TRANSCRIPTION}.completed", "item_id": "i1", "transcript": "So we."}
    assert run(Duplex(), *deltas, final) == [
        Show(YOU, "so", "we"), Show(YOU, "so we"), Show(YOU, "So we.", final=True)]  # fmt: skip


def test_a_reply_is_a_line_once_it_was_heard() -> None:
    duplex = Duplex()
    assert run(duplex, says("Yes, "), says("until six."), done())[-1] == Show(AGENT, "Yes, until six.")
    assert duplex.tick(playing=True) == []
    assert duplex.tick(playing=False) == [Show(AGENT, "Yes, until six.", final=True)]
    assert duplex.tick(playing=False) == []


def test_of_a_reply_that_was_cut_only_what_was_heard_is_shown() -> None:
    duplex = Duplex()
    run(duplex, says("Yes, until six."), done(), STARTED, CLEARED, playing=True)
    duplex.cleared("a1", 100, 48_000)
    (ask,) = run(duplex, {"type": "conversation.item.truncated", "item_id": "a1"})
    assert ask == Send({"type": "conversation.item.retrieve", "item_id": "a1"})
    item = {"id": "a1", "role": "assistant", "content": [{"type": "output_audio", "transcript": "Yes,"}]}
    shown = run(duplex, {"type": "conversation.item.retrieved", "item": item})
    assert shown == [Show(AGENT, "Yes, —", final=True)]
    assert duplex.tick(playing=False) == []


def test_trouble_and_delays_are_passed_on() -> None:
    error = {"type": "error", "error": {"type": "server_full", "code": "server_full", "message": "full",
                                        "retry_after_s": 2.0}}  # fmt: skip
    failed = response("failed", status_details={"error": {"code": "reply_failed", "message": "no answer"}})
    stats = {"type": "vivavoce.stats", "stages": [{"name": "silence", "ms": 300.0}]}
    assert run(Duplex(), error, failed) == [Trouble("server_full", "full", 2.0), Trouble("reply_failed", "no answer")]
    assert run(Duplex(), stats) == [Stages((("silence", 300.0),))]


def test_what_it_does_not_know_is_ignored() -> None:
    unknown = {"type": "conversation.item.retrieved", "item": {"id": "x"}}
    assert run(Duplex(), {"type": "rate_limits.updated"}, unknown) == []


EVENTS = [STARTED, RESUMED, CLEARED, sound(), sound("a2"), says("x"), says("y", "a2"), done(), done("a2"),
          response("completed"), response("cancelled"), {"type": "response.created", "response": {"id": "r2"}},
          {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 5},
          {"type": "conversation.item.truncated", "item_id": "a1"}]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans()), max_size=40))
def test_pauses_are_always_answered_and_never_nested(steps: list[tuple[dict[str, Any], bool]]) -> None:
    duplex, paused = Duplex(), False
    for event, playing in steps:
        for output in [*duplex.receive(event, playing), *duplex.tick(playing)]:
            if isinstance(output, Pause):
                assert not paused
                paused = True
            if isinstance(output, Resume | Clear):
                paused = False
        assert duplex.paused == paused


def kinds(base: type) -> set[str]:
    """The `type` of every event below a class of the server's."""
    below = [kind for sub in base.__subclasses__() for kind in kinds(sub)]
    field = base.model_fields.get("type")  # type: ignore[attr-defined]
    return {*below, *([field.default] if field else [])}


def test_every_event_it_acts_on_is_one_that_the_server_sends() -> None:
    assert set(_ACTS) <= kinds(events.ServerEvent)
