"""Who has the floor: interruptions, false alarms, turns that words end, and silence that lasts."""

from __future__ import annotations

from typing import Any

import pytest
from talks import Talk, types

from vivavoce.server import signals


def said(talk: Talk) -> list[tuple[str, str]]:
    """The prompt of the newest reply, without the instructions."""
    return [(m["role"], m["content"]) for m in talk.last(signals.StartReply).prompt.messages[1:]]


def detecting(**detection: Any) -> Talk:
    talk = Talk()
    talk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    return talk


def test_an_interruption_cuts_the_reply_where_it_was_heard() -> None:
    talk = Talk()
    talk.turn("tell me a story")
    talk.answer("one two three four", 4000)
    talk.wait(2000)
    assert types(talk.starts()) == ["input_audio_buffer.speech_started"]  # the client pauses on it
    assert types(talk.hears(tail="no wait"))[1:] == ["output_audio_buffer.cleared", "conversation.item.truncated"]
    assert talk.event("conversation.item.truncated")["audio_end_ms"] == pytest.approx(2200, abs=2)
    talk.stops()
    talk.hears("no wait a moment", last=True)
    assert said(talk) == [("user", "tell me a story"), ("assistant", "one two"), ("user", "no wait a moment")]


def test_a_reply_in_the_making_is_cancelled_and_its_voice_stopped() -> None:
    talk = Talk()
    talk.turn("tell me a story")
    talk.says("one two three")
    talk.speaks(1000, ("one", 0, 500), ("two", 500, 1000))
    talk.wait(600)
    talk.starts()
    held = talk.speaks(1000, ("three", 1000, 2000))
    assert held == []  # nothing is sent while it may be interrupted
    events = talk.hears("stop")
    response = talk.event("response.done")["response"]
    assert "response.output_audio.delta" not in types(events)
    assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "turn_detected")
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["transcript"] == "one two"
    assert {type(a) for a in talk.actions} >= {signals.CancelReply, signals.StopSpeaking}


@pytest.mark.parametrize("text", ["mm-hm", "i see", ""])
def test_who_only_listens_or_coughs_lets_it_go_on_and_gets_no_answer(text: str) -> None:
    talk = Talk()
    talk.turn("tell me a story")
    talk.says("one two three four")
    talk.speaks(1000)
    talk.starts()
    talk.speaks(1000)
    talk.hears(text)
    talk.stops()
    events = talk.hears(last=True)
    assert types(events)[-2:] == ["vivavoce.output_audio.resumed", "response.output_audio.delta"]
    talk.done()
    talk.speaks(10, last=True)
    assert talk.types.count("response.created") == 1
    talk.wait(5000)
    talk.turn("and then")
    assert ("user", text) not in said(talk)


def test_sound_without_words_does_not_hold_the_reply_for_ever() -> None:
    talk = Talk()
    talk.turn("tell me a story")
    talk.answer(ms=9000)
    talk.starts()
    assert types(talk.wait(3000)) == ["vivavoce.output_audio.resumed"]
    assert "output_audio_buffer.cleared" in types(talk.hears("stop it now"))  # words after all


def test_a_client_that_truncates_has_decided_by_itself() -> None:
    talk = Talk()
    talk.turn("tell me a story")
    talk.answer("one two three four", 4000)
    item = talk.event("response.output_item.done")["item"]["id"]
    talk.wait(2500)
    talk.starts()
    events = talk.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=1200)
    assert types(events) == ["output_audio_buffer.cleared", "conversation.item.truncated"]
    assert events[-1]["audio_end_ms"] == 1200
    (retrieved,) = talk.send("conversation.item.retrieve", item_id=item)
    assert retrieved["item"]["content"][0]["transcript"] == "one"
    talk.hears("go on")
    talk.stops()
    talk.hears(last=True)
    assert said(talk)[1] == ("assistant", "one")


def test_a_truncation_that_comes_later_is_believed_too() -> None:
    talk = Talk()
    talk.turn("tell me a story")
    talk.answer("one two three four", 4000)
    item = talk.event("response.output_item.done")["item"]["id"]
    talk.wait(1000)
    talk.starts()
    talk.hears("stop")
    assert talk.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=3100)[-1]["audio_end_ms"]
    (retrieved,) = talk.send("conversation.item.retrieve", item_id=item)
    assert retrieved["item"]["content"][0]["transcript"] == "one two three"
    (error,) = talk.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=9000)
    assert error["error"]["param"] == "audio_end_ms"


def test_a_reply_of_which_nothing_was_heard_was_not_said() -> None:
    talk = Talk()
    talk.turn("what is")
    talk.says("Well")
    talk.turn("the time please")
    assert said(talk) == [("user", "what is"), ("user", "the time please")]


def test_who_may_not_interrupt_is_answered_afterwards() -> None:
    talk = detecting(type="server_vad", interrupt_response=False)
    talk.turn("tell me a story")
    talk.says("one two")
    talk.speaks(3000)
    assert "response.done" not in types(talk.turn("what is the time"))
    assert types(talk.speaks(1000)) == ["response.output_audio.delta"]
    talk.done()
    assert types(talk.speaks(10, last=True))[-2:] == ["response.created", "rate_limits.updated"]


def test_without_create_response_the_client_asks() -> None:
    talk = detecting(type="server_vad", create_response=False)
    assert "response.created" not in types(talk.turn("what is the time"))
    assert "response.created" in types(talk.send("response.create"))


def test_words_end_a_semantic_turn_or_let_it_go_on() -> None:
    talk = detecting(type="semantic_vad")
    talk.starts()
    talk.hears("i would like to")
    assert talk.stops() == []  # more is to come
    assert talk.wait(3000) == []
    talk.starts()
    talk.hears("know what time it is please")
    assert types(talk.stops())[:2] == ["input_audio_buffer.speech_stopped", "input_audio_buffer.committed"]
    talk.hears(last=True)
    assert said(talk) == [("user", "i would like to know what time it is please")]


@pytest.mark.parametrize(("eagerness", "ms"), [("low", 8000), ("auto", 4000), ("high", 2000)])
def test_patience_has_an_end(eagerness: str, ms: int) -> None:
    talk = detecting(type="semantic_vad", eagerness=eagerness)
    talk.starts()
    talk.hears("and then i")
    talk.stops()
    assert talk.wait(ms - 10) == []
    assert "input_audio_buffer.committed" in types(talk.wait(20))


def test_a_silence_that_lasts_makes_the_agent_speak_once() -> None:
    talk = detecting(type="server_vad", idle_timeout_ms=6000)
    assert talk.wait(20_000) == []  # nobody has spoken yet
    talk.turn("hello there")
    talk.answer("Hi.", 1000)
    assert talk.wait(6900) == []
    events = talk.wait(200)
    assert types(events)[0] == "input_audio_buffer.timeout_triggered"
    assert "response.created" in types(events)
    talk.answer("Are you there?", 1000)
    assert talk.wait(60_000) == []


def test_a_turn_without_words_is_not_answered() -> None:
    talk = Talk()
    assert types(talk.turn(""))[-1] == "conversation.item.input_audio_transcription.completed"
    assert not talk.all(signals.StartReply)


def words(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def committed() -> tuple[Talk, str]:
    """A talk without turn detection in which something was said whose words are still to come, and its item."""
    talk = Talk()
    talk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    talk.audio(1000)
    talk.send("input_audio_buffer.commit")
    return talk, talk.event("input_audio_buffer.committed")["item_id"]


def test_a_response_that_refers_to_what_was_said_waits_for_its_words() -> None:
    talk, item = committed()
    given = [words("translate"), {"type": "item_reference", "id": item}]
    talk.send("response.create", response={"conversation": "none", "input": given})
    assert not talk.all(signals.StartReply)
    talk.hears("what time is it", last=True)
    assert said(talk) == [("user", "translate"), ("user", "what time is it")]


def test_a_response_that_refers_to_nothing_said_waits_for_nothing() -> None:
    talk, _ = committed()
    talk.send("response.create", response={"conversation": "none", "input": [words("translate")]})
    assert said(talk) == [("user", "translate")]


def test_what_is_referred_to_may_be_deleted_before_its_words_come() -> None:
    talk, item = committed()
    given = [words("translate"), {"type": "item_reference", "id": item}]
    talk.send("response.create", response={"conversation": "none", "input": given})
    talk.send("conversation.item.delete", item_id=item)
    talk.hears("what time is it", last=True)
    assert said(talk) == [("user", "translate")]


def test_a_response_is_refused_sound_and_items_that_are_not_there() -> None:
    talk = Talk()
    sound: dict[str, Any] = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "AAAA"}]}
    for given, code in [(sound, "invalid_value"), ({"type": "item_reference", "id": "nobody"}, "item_not_found")]:
        (error,) = talk.send("response.create", response={"conversation": "none", "input": [given]})
        assert (error["error"]["code"], error["error"]["param"]) == (code, "response.input")
    sound["content"][0]["transcript"] = "hello"
    talk.send("response.create", response={"conversation": "none", "input": [sound]})
    assert said(talk) == [("user", "hello")]


def test_a_tool_call_that_broke_off_is_left_out_where_it_is_referred_to() -> None:
    talk = Talk()
    talk.send("response.create")
    talk.room(signals.Called(talk.last(signals.StartReply).reply, 0, '{"city": "Par', "weather", "c"))
    talk.send("response.cancel")
    given = {"type": "item_reference", "id": talk.event("response.output_item.done")["item"]["id"]}
    talk.send("response.create", response={"conversation": "none", "input": [given]})
    assert said(talk) == []


def test_the_voice_is_told_what_was_played() -> None:
    talk = Talk()
    talk.turn("tell me a story")
    talk.answer(ms=5000)
    talk.wait(6000)
    assert sum(a.samples for a in talk.all(signals.Took)) == 24 * 5000
