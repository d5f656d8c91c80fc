"""Sessions as clients live them, and one property: whatever comes in whatever order, invariants hold."""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talks import MS, Talk, types

from vivavoce.server import signals
from vivavoce.speech.asr.words import Word
from vivavoce.speech.turn import SpeechEnded, SpeechStarted

# Sessions


def test_a_session_says_what_it_is() -> None:
    talk = Talk(resume_token="again", model="small")
    session = talk.event("session.created")["session"]
    assert (session["id"], session["object"], session["type"]) == ("sess_test", "realtime.session", "realtime")
    assert session["model"] == "small"
    assert session["vivavoce"]["resume_token"] == "again"
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    talk = Talk()
    (updated,) = talk.send("session.update", session={"type": "realtime", "instructions": "Hi.", "audio": {
        "input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 300}}}})  # fmt: skip
    session = updated["session"]
    assert (session["instructions"], session["output_modalities"]) == ("Hi.", ["audio"])
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300
    assert session["audio"]["input"]["turn_detection"]["threshold"] == 0.5


def test_what_is_wrong_is_answered_and_the_session_lives() -> None:
    talk = Talk()
    (error,) = talk.send("session.update", event_id="mine", session={"type": "realtime", "colour": "red"})
    assert error["error"]["code"] == "unknown_parameter"
    assert (error["error"]["event_id"], error["error"]["param"]) == ("mine", "session.colour")
    (error,) = talk.send("conversation.item.delete", event_id="his", item_id="nobody")
    assert (error["error"]["code"], error["error"]["event_id"]) == ("item_not_found", "his")
    assert types(talk.send("response.create"))[0] == "response.created"


def test_a_session_under_way_keeps_its_type() -> None:
    talk = Talk()
    assert types(talk.send("session.update", session={"type": "transcription"})) == ["session.updated"]
    talk.starts()
    (error,) = talk.send("session.update", session={"type": "realtime"})
    assert error["error"]["code"] == "session_type"


def test_a_session_without_a_sign_of_its_client_ends() -> None:
    talk = Talk(gone=60_000 * MS)
    assert talk.wait(59_000) == []
    assert talk.wait(2_000)[-1]["error"]["code"] == "session_idle"
    assert talk.last(signals.Close) == signals.Close("idle")
    assert talk.conversation.wake_at is None
    assert talk.send("response.create") == []


def test_after_a_reconnect_the_session_is_the_same() -> None:
    talk = Talk()
    talk.turn("hello there")
    (again,) = talk._take(talk.conversation.greet(talk.now))
    assert (again["type"], again["session"]["id"]) == ("session.created", "sess_test")
    assert talk.answer()[-1]["type"] == "response.done"


# Transcription


def test_a_transcription_session_writes_down_turn_after_turn() -> None:
    talk = Talk("transcription")
    for text in ("the first words", "the second ones"):
        events = talk.turn(text)
        assert types(events) == [
            "input_audio_buffer.speech_started",
            "conversation.item.input_audio_transcription.delta",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "conversation.item.input_audio_transcription.completed",
        ]
        assert events[-1]["transcript"] == text
        assert len({e.get("item_id", e.get("item", {}).get("id")) for e in events}) == 1
    assert not talk.all(signals.StartReply)
    assert talk.send("response.create")[0]["error"]["code"] == "invalid_event"


def test_deltas_joined_are_the_transcript_and_tails_come_beside() -> None:
    talk = Talk("transcription")
    talk.starts()
    deltas = [*talk.hears("one", "tw"), *talk.hears("two"), *talk.hears("", "thr")]
    talk.stops()
    deltas += talk.hears("three", last=True)[:1]
    assert "".join(d["delta"] for d in deltas) == "one two three"
    assert [d["vivavoce"]["tail"] for d in deltas] == ["tw", "", "thr", ""]
    assert talk.event("conversation.item.input_audio_transcription.completed")["transcript"] == "one two three"


def test_without_turn_detection_the_client_ends_the_utterance() -> None:
    talk = Talk("transcription")
    talk.send("session.update", session={"type": "transcription", "audio": {"input": {"turn_detection": None}}})
    talk.audio(50)
    assert talk.send("input_audio_buffer.commit")[0]["error"]["code"] == "input_audio_buffer_commit_empty"
    talk.audio(450)
    assert types(talk.send("input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"
    assert sum(len(a.pcm) for a in talk.all(signals.Hear)) == 8000  # to the last sample the rate converter held
    assert not talk.all(signals.Watch)
    assert talk.hears("all of it", last=True)[-1]["transcript"] == "all of it"
    talk.audio(200)
    assert talk.last(signals.StartHearing).stream != talk.all(signals.StartHearing)[0].stream
    assert types(talk.send("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert isinstance(talk.actions[-1], signals.CloseHearing)


def test_logprobs_are_sent_to_those_who_want_them() -> None:
    talk = Talk("transcription")
    talk.send(
        "session.update", session={"type": "transcription", "include": ["item.input_audio_transcription.logprobs"]}
    )
    talk.turn("yes")
    (logprob,) = talk.event("conversation.item.input_audio_transcription.completed")["logprobs"]
    assert (logprob["token"], bytes(logprob["bytes"])) == ("yes", b"yes")
    assert logprob["logprob"] == pytest.approx(np.log(0.9))


def test_a_recogniser_that_fails_is_said_to_and_the_next_turn_is_heard() -> None:
    talk = Talk()
    talk.starts()
    talk.hears("half a")
    (failed,) = talk.room(signals.Deaf(talk.last(signals.StartHearing).stream, "out of memory"))
    assert failed["error"]["message"] == "out of memory"
    assert "input_audio_buffer.committed" in types(talk.stops())
    assert "response.created" in types(talk.turn("what did you say"))


# Conversation


def test_a_spoken_answer_comes_in_the_protocols_order() -> None:
    talk = Talk()
    talk.turn("what time is it")
    assert types(talk.answer("It is noon.", 1200)) == [
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    response = talk.event("response.done")["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": "It is noon."}]
    assert response["usage"] == {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    assert len(base64.b64decode(talk.event("response.output_audio.delta")["delta"])) == 2 * 24 * 1200


def test_text_alone_needs_no_voice() -> None:
    talk = Talk()
    talk.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
    talk.send("conversation.item.create", item={"type": "message", "role": "user", "content": [
        {"type": "input_text", "text": "hello"}]})  # fmt: skip
    talk.send("response.create")
    assert talk.last(signals.StartReply).prompt.messages[-1] == {"role": "user", "content": "hello"}
    assert types([*talk.says("Hi"), *talk.says(" there."), *talk.done()])[-7:] == [
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert talk.event("response.output_text.done")["text"] == "Hi there."
    assert not talk.all(signals.StartSpeaking)


def test_a_tool_call_and_its_result() -> None:
    talk = Talk()
    tool = {"type": "function", "name": "weather", "description": "", "parameters": {"type": "object"}}
    talk.send("session.update", session={"type": "realtime", "tools": [tool]})
    talk.turn("what is the weather in rome")
    reply = talk.last(signals.StartReply)
    assert reply.prompt.tools[0]["function"]["name"] == "weather"
    talk.room(signals.Called(reply.reply, 0, '{"city":', "weather", "call_7"))
    talk.room(signals.Called(reply.reply, 0, '"Rome"}'))
    events = talk.done()
    assert types(events)[0] == "response.function_call_arguments.done"
    assert events[0]["arguments"] == '{"city":"Rome"}'
    (call,) = talk.event("response.done")["response"]["output"]
    assert (call["type"], call["name"], call["call_id"]) == ("function_call", "weather", "call_7")
    result = {"type": "function_call_output", "call_id": "call_7", "output": "sunny"}
    talk.send("conversation.item.create", item=result)
    talk.send("response.create")
    *_, assistant, given = talk.last(signals.StartReply).prompt.messages
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert given == {"role": "tool", "tool_call_id": "call_7", "content": "sunny"}


def test_an_interrupted_tool_call_hangs_nothing() -> None:
    talk = Talk()
    talk.turn("what is the weather in rome")
    talk.room(signals.Called(talk.last(signals.StartReply).reply, 0, '{"ci', "weather", "call_7"))
    talk.turn("no never mind")
    assert talk.event("response.done")["response"]["status"] == "cancelled"
    assert [m["role"] for m in talk.last(signals.StartReply).prompt.messages] == ["system", "user", "user"]
    (error,) = talk.send(
        "conversation.item.create", item={"type": "function_call_output", "call_id": "x", "output": ""}
    )
    assert error["error"]["code"] == "unknown_call"


def test_only_one_response_at_a_time() -> None:
    talk = Talk()
    talk.send("response.create")
    assert talk.send("response.create")[0]["error"]["code"] == "conversation_already_has_active_response"
    assert types(talk.send("response.cancel")) == ["response.done"]
    assert isinstance(talk.actions[-1], signals.CancelReply)
    assert talk.send("response.cancel")[0]["error"]["code"] == "response_cancel_not_active"


def test_a_response_waits_for_the_last_words_before_it() -> None:
    talk = Talk()
    talk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    talk.audio(500)
    talk.send("input_audio_buffer.commit")
    assert types(talk.send("response.create"))[0] == "response.created"
    assert not talk.all(signals.StartReply)
    talk.hears("good morning", last=True)
    assert talk.last(signals.StartReply).prompt.messages[-1]["content"] == "good morning"


def test_a_response_outside_the_conversation_leaves_no_trace() -> None:
    talk = Talk()
    talk.turn("hello there")
    talk.answer("Hi.", 300)
    own = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "sum up"}]}
    talk.send("response.create", response={"conversation": "none", "output_modalities": ["text"],
                                           "metadata": {"a": "b"}, "input": [own]})  # fmt: skip
    assert [m["content"] for m in talk.last(signals.StartReply).prompt.messages[1:]] == ["sum up"]
    before = len(talk.conversation.history)
    assert "conversation.item.added" not in types([*talk.says("a greeting"), *talk.done()])
    assert len(talk.conversation.history) == before
    assert talk.event("response.done")["response"]["metadata"] == {"a": "b"}


def test_an_audio_message_of_a_client_is_heard_before_the_answer() -> None:
    talk = Talk()
    audio = base64.b64encode(bytes(48 * 300)).decode()
    talk.send("conversation.item.create", item={"type": "message", "role": "user", "content": [
        {"type": "input_audio", "audio": audio}]})  # fmt: skip
    talk.send("response.create")
    assert not talk.all(signals.StartReply)
    talk.hears("from a file", last=True)
    assert talk.last(signals.StartReply).prompt.messages[-1]["content"] == "from a file"


# Thinking while listening


def test_words_are_read_while_they_are_said_and_the_reply_is_asked_on_the_same() -> None:
    talk = Talk()
    talk.starts()
    talk.hears("what is", tail="the")
    assert talk.last(signals.Prefill).prompt.messages[-1] == {"role": "user", "content": "what is"}
    talk.hears("", tail="that")
    assert len(talk.all(signals.Prefill)) == 1  # a tail is not certain
    talk.hears("the time")
    talk.stops()
    talk.hears(last=True)
    assert talk.last(signals.Prefill).prompt.messages == talk.last(signals.StartReply).prompt.messages


def test_stats_say_where_the_time_went() -> None:
    talk = Talk()
    talk.send("session.update", session={"type": "realtime", "vivavoce": {"stats": True}})
    talk.starts()
    talk.hears("what time is it")
    talk.stops()
    talk.now += 40 * MS
    talk.hears(last=True)
    talk.now += 100 * MS
    talk.says("Noon.")
    talk.now += 60 * MS
    talk.speaks(500)
    stages = {stage["name"]: stage["ms"] for stage in talk.event("vivavoce.stats")["stages"]}
    assert stages == {"silence": 500, "turn": 0, "words": 40, "thinking": 100, "voice": 60}
    assert talk.types.count("vivavoce.stats") == 1


# Failures are heard


def test_a_model_that_fails_is_apologised_for_aloud() -> None:
    talk = Talk()
    talk.turn("what time is it")
    talk.room(signals.NoReply(talk.last(signals.StartReply).reply, "503 from the endpoint", "reply_timeout"))
    assert talk.last(signals.Say).text == "Sorry, I can't answer that right now."
    talk.speaks(800, last=True)
    response = talk.event("response.done")["response"]
    assert (response["status"], response["status_details"]["error"]["code"]) == ("failed", "reply_timeout")
    assert "response.created" in types(talk.turn("and now then"))


def test_an_apology_is_measured_like_an_answer() -> None:
    talk = Talk()
    talk.send("session.update", session={"type": "realtime", "vivavoce": {"stats": True}})
    talk.turn("what time is it")
    talk.room(signals.NoReply(talk.last(signals.StartReply).reply, "no"))
    assert types(talk.speaks(100))[-1] == "vivavoce.stats"


def test_a_model_or_voice_that_falls_silent_is_given_up() -> None:
    talk = Talk()
    talk.turn("what time is it")
    talk.wait(61_000)
    assert talk.last(signals.Say).text == "Sorry, I can't answer that right now."
    assert isinstance(talk.actions[-1], signals.FinishSpeaking)
    talk.wait(61_000)
    assert talk.event("response.done")["response"]["status_details"]["error"]["code"] in (
        "speech_failed",
        "reply_timeout",
    )


def test_without_a_voice_the_words_are_there_to_read() -> None:
    talk = Talk()
    talk.turn("what time is it")
    talk.says("It is noon.")
    events = talk.room(signals.Hoarse(talk.last(signals.StartSpeaking).speech, "no voice"))
    assert events[-1]["response"]["status"] == "failed"
    assert talk.event("response.output_audio_transcript.delta")["delta"] == "It is noon."
    assert isinstance(talk.last(signals.CancelReply), signals.CancelReply)


# Whatever comes


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
    talk.room(signals.Voiced(newest(talk, signals.StartWatching, back), at, tuple(events)))


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
