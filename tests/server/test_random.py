"""One property of the server's core: whatever comes in whatever order, no exception, and every invariant holds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talks import Talk

from vivavoce.server import signals
from vivavoce.speech.asr.words import Word
from vivavoce.speech.turn import SpeechEnded, SpeechStarted


class Watcher:
    """Sees everything a session gives out, and fails when an invariant breaks."""

    def __init__(self, talk: Talk) -> None:
        self.talk, self.events, self.actions = talk, 0, 0
        self.response: str | None = None
        self.open_items: set[str] = set()
        self.speaking = False
        self.fed: dict[int, str] = {}  # streams, watches, replies and speeches, and how far each is

    def look(self) -> None:
        for event in self.talk.events[self.events :]:
            self.event(event)
        for action in self.talk.actions[self.actions :]:
            self.action(action)
        self.events, self.actions = len(self.talk.events), len(self.talk.actions)
        wake = self.talk.conversation.wake_at
        assert wake is None or wake > self.talk.now, "it would be woken again at once"
        for entry in self.talk.conversation.history:
            if entry.track is not None:
                assert entry.track.played <= entry.track.sent
                assert entry.track.text.startswith(entry.track.heard)

    def event(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "response.created":
                assert self.response is None, "at most one response at a time"
                self.response = event["response"]["id"]
            case "response.done":
                assert event["response"]["id"] == self.response
                assert not self.open_items, "an item outlived its response"
                assert all(item["status"] != "in_progress" for item in event["response"]["output"])
                self.response = None
            case "response.output_item.added":
                assert event["response_id"] == self.response
                self.open_items.add(event["item"]["id"])
            case "response.output_item.done":
                self.open_items.remove(event["item"]["id"])
            case "input_audio_buffer.speech_started":
                assert not self.speaking
                self.speaking = True
            case "input_audio_buffer.speech_stopped":
                assert self.speaking
                self.speaking = False
            case "input_audio_buffer.cleared":
                self.speaking = False
            case _:
                if "response_id" in event and "delta" in event:
                    assert event["response_id"] == self.response
                    assert event["item_id"] in self.open_items

    def action(self, action: signals.Action) -> None:
        match action:
            case signals.StartHearing(n) | signals.StartWatching(n) | signals.StartReply(n) | signals.StartSpeaking(n):
                assert n not in self.fed, "a number was used twice"
                self.fed[n] = "open"
            case signals.Hear(n) | signals.Watch(n) | signals.SetLookahead(n) | signals.ConfigureWatching(n):
                assert self.fed[n] == "open"
            case signals.TextChanged(n) | signals.Say(n):
                assert self.fed[n] == "open"
            case signals.FinishHearing(n) | signals.FinishSpeaking(n):
                assert self.fed[n] == "open"
                self.fed[n] = "finished"
            case signals.CloseHearing(n) | signals.StopWatching(n) | signals.CancelReply(n):
                assert self.fed[n] in ("open", "finished")
                self.fed[n] = "over"
            case signals.StopSpeaking(n):  # its last sound may be held back in a pause
                self.fed[n] = "over"
            case _:
                pass

    def gone(self, number: int) -> None:
        """A room says that it is over."""
        self.fed[number] = "over"


def newest(talk: Talk, kind: type[Any], back: int) -> int:
    """The number of the newest of its kind, or of one before it, or none that ever was."""
    numbers = [next(iter(vars(a).values())) for a in talk.all(kind)]
    return numbers[-1 - back] if back < len(numbers) else 999


def heard(talk: Talk, watcher: Watcher, back: int, text: str, tail: str, last: bool) -> None:
    stream = newest(talk, signals.StartHearing, back)
    if last and watcher.fed.get(stream) == "finished":
        watcher.gone(stream)
    elif last:
        return  # rooms say so only of what was finished
    talk.room(signals.Heard(stream, 1600, tuple(Word(w, 0, 800, 0.5) for w in text.split()), tail, last))


def voiced(talk: Talk, watcher: Watcher, back: int, kinds: str) -> None:
    at, events = talk.conversation.listener.total, []
    for kind in kinds:
        if kind == "s":
            events.append(SpeechStarted(max(0, at - 3000)))
        else:
            events.append(SpeechEnded(max(0, at - 2000), at, "silence" if kind == "e" else "length"))
    certain = at + 4000 if at % 1024 else 0
    talk.room(signals.Voiced(newest(talk, signals.StartWatching, back), at, tuple(events), certain))


def spoken(talk: Talk, watcher: Watcher, back: int, ms: int, last: bool) -> None:
    speech = newest(talk, signals.StartSpeaking, back)
    if last and watcher.fed.get(speech) == "finished":
        watcher.gone(speech)
    elif last:
        return
    talk.room(signals.Spoken(speech, np.zeros(24 * ms, np.float32), (signals.SpokenWord("so", 0, 24 * ms),), last))


def over(talk: Talk, watcher: Watcher, what: str, back: int) -> None:
    """Something ends, well or badly."""
    kinds: dict[str, tuple[type[Any], Any]] = {
        "replied": (signals.StartReply, lambda n: signals.Replied(n)),
        "length": (signals.StartReply, lambda n: signals.Replied(n, "length")),
        "no reply": (signals.StartReply, lambda n: signals.NoReply(n, "no")),
        "deaf": (signals.StartHearing, lambda n: signals.Deaf(n, "no")),
        "hoarse": (signals.StartSpeaking, lambda n: signals.Hoarse(n, "no")),
        "unwatched": (signals.StartWatching, lambda n: signals.Unwatched(n, "no")),
    }
    kind, make = kinds[what]
    number = newest(talk, kind, back)
    if what in ("replied", "length", "no reply") and watcher.fed.get(number) == "over":
        return  # a model is done once
    watcher.gone(number)
    talk.room(make(number))


def some_item(talk: Talk, back: int) -> str:
    entries = list(talk.conversation.history)
    return entries[-1 - back].id if back < len(entries) else "nobody"


def update(talk: Talk, session: dict[str, Any]) -> None:
    talk.send("session.update", session=session)


DETECTION = [None, {"type": "server_vad"}, {"type": "semantic_vad"},
             {"type": "server_vad", "interrupt_response": False},
             {"type": "server_vad", "idle_timeout_ms": 5000},
             {"type": "semantic_vad", "create_response": False}]  # fmt: skip
SESSIONS: list[dict[str, Any]] = [
    *({"type": "realtime", "audio": {"input": {"turn_detection": d}}} for d in DETECTION),
    {"type": "realtime", "output_modalities": ["text"]},
    {"type": "realtime", "output_modalities": ["audio"], "vivavoce": {"stats": True, "adaptive_lookahead": True}},
    {
        "type": "realtime",
        "audio": {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcma"}}},
    },
    {"type": "transcription"},
    {"type": "nonsense"},
]
SAID = ["", "yes", "stop", "mm-hm", "i see", "well what i want to", "what time is it now please"]
back = st.sampled_from([0, 0, 0, 0, 1, 5])
SCENES = st.one_of(  # what mostly happens, so that the rest falls into the midst of it
    st.tuples(st.just("turn"), st.sampled_from(SAID)),
    st.tuples(st.just("turn"), st.sampled_from(SAID)),
    st.tuples(st.just("begin"), st.sampled_from(SAID)),
    st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from([100, 3000])),
    st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from([100, 3000])),
    st.tuples(st.just("wait"), st.sampled_from([30, 700])),
)
STEPS = st.one_of(
    st.tuples(st.just("audio"), st.sampled_from([1, 20, 200, 900])),
    st.tuples(st.just("audio"), st.sampled_from([20, 200])),
    st.tuples(st.just("voiced"), back, st.sampled_from(["", "s", "e", "se", "es", "l", "ses"])),
    st.tuples(st.just("voiced"), st.just(0), st.sampled_from(["s", "e"])),
    st.tuples(st.just("heard"), back, st.sampled_from(SAID), st.sampled_from(SAID), st.booleans()),
    st.tuples(st.just("heard"), st.just(0), st.sampled_from(SAID), st.just(""), st.just(True)),
    st.tuples(st.just("said"), back, st.sampled_from(["so", " so it is.", ""])),
    st.tuples(st.just("called"), back, st.integers(0, 2), st.sampled_from(["", "call_1"])),
    st.tuples(st.just("spoken"), back, st.sampled_from([0, 100, 3000]), st.booleans()),
    st.tuples(st.just("over"), st.sampled_from(["replied", "replied", "replied", "length", "no reply", "deaf", "hoarse",
                                                "unwatched"]), back),
    st.tuples(st.just("wait"), st.sampled_from([0, 30, 700, 4000, 70_000])),
    st.tuples(st.just("update"), st.sampled_from(SESSIONS)),
    st.tuples(st.just("plain"), st.sampled_from(["input_audio_buffer.commit", "input_audio_buffer.clear",
                                                 "response.create", "response.cancel", "output_audio_buffer.clear"])),
    st.tuples(st.just("item"), st.sampled_from(["conversation.item.retrieve", "conversation.item.delete"]), back),
    st.tuples(st.just("truncate"),
              st.sampled_from(["conversation.item.truncate", "vivavoce.output_audio.played"]), back,
              st.sampled_from([0, 90, 2000, 10**6])),
    st.tuples(st.just("create"), st.sampled_from(["nobody", "root", None]), st.sampled_from([None, "mine"])),
    st.tuples(st.just("frame"), st.one_of(st.text(max_size=20), st.binary(max_size=9), st.sampled_from([
        "{}", "[]", "null", '{"type":1}',
        '{"type":"response.create","response":{"input":[{"type":"item_reference","id":"x"}]}}',
    ]))),
    st.tuples(st.just("greet")),
)  # fmt: skip


def scene(talk: Talk, watcher: Watcher, name: str, *args: Any) -> None:
    """Some of the steps that make a turn or an answer, in their order."""
    if name == "answer":
        talk.room(signals.Said(newest(talk, signals.StartReply, 0), "so it is and so on"))
        if args[0] > 0:
            spoken(talk, watcher, 0, args[1], False)
        if args[0] > 1:
            over(talk, watcher, "replied", 0)
        if args[0] > 2:
            spoken(talk, watcher, 0, args[1], True)
        return
    talk.audio(300)
    voiced(talk, watcher, 0, "s")
    heard(talk, watcher, 0, "", args[0], False)
    if name == "turn":
        talk.audio(300)
        voiced(talk, watcher, 0, "e")
        talk.send("input_audio_buffer.commit")
        heard(talk, watcher, 0, args[0], "", True)


def play(steps: list[tuple[Any, ...]], kind: str) -> None:
    talk = Talk(kind)
    watcher = Watcher(talk)
    for name, *args in steps:
        match name:
            case "turn" | "begin" | "answer":
                scene(talk, watcher, name, *args)
            case "audio":
                talk.audio(*args)
            case "voiced":
                voiced(talk, watcher, *args)
            case "heard":
                heard(talk, watcher, *args)
            case "said":
                talk.room(signals.Said(newest(talk, signals.StartReply, args[0]), args[1]))
            case "called":
                talk.room(signals.Called(newest(talk, signals.StartReply, args[0]), args[1], "{}", "tool", args[2]))
            case "spoken":
                spoken(talk, watcher, *args)
            case "over":
                over(talk, watcher, *args)
            case "wait":
                talk.wait(*args)
            case "update":
                update(talk, *args)
            case "plain":
                talk.send(*args)
            case "item":
                talk.send(args[0], item_id=some_item(talk, args[1]))
            case "truncate":
                talk.send(args[0], item_id=some_item(talk, args[1]), audio_end_ms=args[2])
            case "create":
                item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
                talk.send("conversation.item.create", previous_item_id=args[0], item=item | {"id": args[1]})
            case "frame":
                talk.frame(*args)
            case "greet":
                talk._take(talk.conversation.greet(talk.now))
        talk.wait(0)
        watcher.look()
    assert talk._take(talk.conversation.end(talk.now)) == []
    watcher.look()
    left = [n for n, state in watcher.fed.items() if state == "open"]
    assert not left, f"{left} were never let go of"
    assert max(Counter(e["event_id"] for e in talk.events).values(), default=1) == 1
    assert talk.send("response.create") == []


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.one_of(SCENES, STEPS), min_size=12, max_size=30),
    st.sampled_from(["realtime", "realtime", "realtime", "transcription"]),
)
def test_whatever_comes_in_whatever_order_invariants_hold(steps: list[tuple[Any, ...]], kind: str) -> None:
    play(steps, kind)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.one_of(SCENES, STEPS), min_size=12, max_size=40),
    st.sampled_from(["realtime", "realtime", "realtime", "transcription"]),
)
def test_ten_thousand_random_sessions_hold_their_invariants(steps: list[tuple[Any, ...]], kind: str) -> None:
    play(steps, kind)
