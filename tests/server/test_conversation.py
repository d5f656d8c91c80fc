"""Sessions as clients live them."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from talks import MS, Talk, types

from vivavoce.server import signals

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
    pieces = [*talk.room(signals.Called(reply.reply, 0, '{"city":', "weather", "call_7")),
              *talk.room(signals.Called(reply.reply, 0, '"Rome"}'))]  # fmt: skip
    deltas = [event for event in pieces if event["type"] == "response.function_call_arguments.delta"]
    assert ("".join(event["delta"] for event in deltas), len(deltas)) == ('{"city":"Rome"}', 2)
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


def test_an_item_can_be_read_deleted_and_is_then_gone_from_the_prompt() -> None:
    talk = Talk()
    for number, text in enumerate(("my name is ann", "forget it")):
        content = [{"type": "input_text", "text": text}]
        item = {"id": f"it{number}", "type": "message", "role": "user", "content": content}
        talk.send("conversation.item.create", item=item)
    first = "it0"
    (got,) = talk.send("conversation.item.retrieve", item_id=first)
    assert (got["type"], got["item"]["id"]) == ("conversation.item.retrieved", first)
    (gone,) = talk.send("conversation.item.delete", item_id=first)
    assert (gone["type"], gone["item_id"]) == ("conversation.item.deleted", first)
    (error,) = talk.send("conversation.item.retrieve", item_id=first)
    assert error["type"] == "error"
    talk.send("response.create")
    assert "ann" not in str(talk.last(signals.StartReply).prompt.messages)


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
