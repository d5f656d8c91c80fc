"""The agent's side alone: how a reply becomes events."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from talks import MS, Talk, types

from vivavoce.server import signals


def test_speech_and_a_tool_call_are_two_items_in_the_order_they_came() -> None:
    talk = Talk()
    talk.turn("what is the weather in rome")
    talk.says("Let me see.")
    talk.room(signals.Called(talk.last(signals.StartReply).reply, 0, "{}", "weather", "c"))
    talk.done()
    talk.speaks(500, last=True)
    output = talk.event("response.done")["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    assert [e["output_index"] for e in talk.events if e["type"] == "response.output_item.done"] == [1, 0]


def test_calls_that_are_numbered_afresh_in_each_reply_get_names_of_their_own() -> None:
    talk = Talk()
    ids = []
    for _ in range(2):
        talk.send("response.create")
        talk.room(signals.Called(talk.last(signals.StartReply).reply, 0, "{}", "f", "call_0"))
        talk.done()
        ids.append(talk.event("response.function_call_arguments.done")["call_id"])
    assert ids[0] == "call_0" != ids[1]


def test_a_reply_cut_at_its_length_is_incomplete() -> None:
    talk = Talk()
    talk.send("response.create", response={"max_output_tokens": 3})
    assert talk.last(signals.StartReply).prompt.max_tokens == 3
    talk.says("one two three")
    talk.done("length")
    talk.speaks(500, last=True)
    response = talk.event("response.done")["response"]
    assert (response["status"], response["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


def test_a_text_cut_at_its_length_is_incomplete() -> None:
    talk = Talk()
    talk.send("response.create", response={"output_modalities": ["text"]})
    talk.says("one two three")
    talk.done("length")
    assert talk.event("response.done")["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("ends", ["length", "failure"])
def test_a_tool_call_cut_off_is_incomplete_and_in_no_later_prompt(ends: str) -> None:
    talk = Talk()
    talk.send("response.create", response={"output_modalities": ["text"]})
    reply = talk.last(signals.StartReply).reply
    talk.room(signals.Called(reply, 0, '{"city": "Par', "weather", "c"))
    talk.room(signals.Replied(reply, "length") if ends == "length" else signals.NoReply(reply, "it broke off"))
    response = talk.event("response.done")["response"]
    assert response["status"] == ("incomplete" if ends == "length" else "failed")
    assert {item["status"] for item in response["output"]} == {"incomplete"}
    talk.send("response.create")
    assert not any("tool_calls" in message for message in talk.last(signals.StartReply).prompt.messages)


def test_a_reply_that_says_nothing_is_complete() -> None:
    talk = Talk()
    talk.send("response.create")
    assert types(talk.done()) == ["response.done"]
    assert talk.event("response.done")["response"]["output"] == []


def test_the_sound_sent_is_the_sound_made() -> None:
    talk = Talk()
    talk.send("response.create")
    talk.says("so")
    speech = talk.last(signals.StartSpeaking).speech
    pcm = np.linspace(-0.5, 0.5, 2400).astype(np.float32)
    talk.room(signals.Spoken(speech, pcm[:1000]))
    talk.done()
    talk.room(signals.Spoken(speech, pcm[1000:], last=True))
    sent = b"".join(base64.b64decode(e["delta"]) for e in talk.events if e["type"] == "response.output_audio.delta")
    assert np.array_equal(np.frombuffer(sent, "<i2"), np.rint(pcm * 32767).astype("<i2"))


def test_the_telephone_gets_its_eight_kilohertz() -> None:
    talk = Talk()
    talk.send("session.update", session={"type": "realtime", "audio": {"output": {"format": {"type": "audio/pcma"}}}})
    talk.send("response.create")
    talk.says("so")
    talk.done()
    talk.speaks(1000, last=True)
    sent = b"".join(base64.b64decode(e["delta"]) for e in talk.events if e["type"] == "response.output_audio.delta")
    assert len(sent) == 8000


def test_what_comes_late_of_a_cancelled_reply_is_ignored() -> None:
    talk = Talk()
    talk.send("response.create")
    talk.says("one")
    talk.send("response.cancel")
    assert talk.says("two") == talk.done() == talk.speaks(100, last=True) == []


@pytest.mark.parametrize("talked_over", [True, False], ids=["talked over", "cancelled"])
def test_what_was_written_of_a_text_before_it_was_ended_stays(talked_over: bool) -> None:
    talk = Talk()
    talk.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
    talk.send("response.create")
    talk.says("One two three")
    if talked_over:
        talk.turn("no wait a moment")
    else:
        talk.send("response.cancel")
        talk.send("response.create")
    assert talk.event("response.output_text.done")["text"] == "One two three"
    assert talk.event("response.content_part.done")["part"]["text"] == "One two three"
    message = talk.event("response.done")["response"]["output"][0]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "One two three")
    assert talk.last(signals.StartReply).prompt.messages[1] == {"role": "assistant", "content": "One two three"}


def test_what_the_client_holds_after_a_cancel_plays_on() -> None:
    talk = Talk()
    talk.send("response.create")
    talk.says("one two three")
    talk.speaks(1000, ("one", 0, 400), ("two", 400, 900))
    item = talk.event("response.output_item.added")["item"]["id"]
    talk.send("response.cancel")
    (retrieved,) = talk.send("conversation.item.retrieve", item_id=item)
    assert retrieved["item"]["content"][0]["transcript"] == "one two"


@pytest.mark.parametrize("reports", [True, False], ids=["a client that reports", "a client that does not"])
def test_the_voice_is_told_of_all_that_was_played_while_there_is_more(reports: bool) -> None:
    talk = Talk()
    talk.send("response.create")
    talk.says("so")
    item = talk.event("response.output_item.added")["item"]["id"]
    for i in range(100):
        talk.speaks(500)
        talk.now += 480 * MS
        if talk.conversation.wake_at <= talk.now:
            talk.wait(0)
        if reports:
            talk.send("vivavoce.output_audio.played", item_id=item, audio_end_ms=480 * (i + 1))
    told = sum(took.samples for took in talk.all(signals.Took))
    assert 24 * 480 * 98 <= told <= 24 * 480 * 100  # but for the last second at most
