"""The names of the beta, in and out."""

from __future__ import annotations

import json
from typing import Any

from talks import Talk

from vivavoce.server.beta import modern
from vivavoce.server.protocol import Protocol


class Old(Talk):
    def __init__(self) -> None:
        super().__init__()
        self.old = Protocol(beta=True)

    def written(self, frame: dict[str, Any]) -> list[dict[str, Any]]:
        outputs = self.conversation.step(self.old.receive(json.dumps(frame)), self.now)
        return [json.loads(self.old.send(e)) for e in outputs if hasattr(e, "event_id")]


def test_a_beta_session_is_set_and_shown_in_its_own_words() -> None:
    (updated,) = Old().written({"type": "session.update", "session": {
        "modalities": ["text", "audio"], "voice": "alloy", "input_audio_format": "g711_ulaw",
        "output_audio_format": "pcm16", "input_audio_transcription": {"model": "whisper-1"},
        "turn_detection": None, "max_response_output_tokens": 99, "temperature": 0.8}})  # fmt: skip
    session = updated["session"]
    assert session["modalities"] == ["audio", "text"]
    assert (session["voice"], session["input_audio_format"], session["output_audio_format"]) == (
        "alloy", "g711_ulaw", "pcm16")  # fmt: skip
    assert (session["turn_detection"], session["max_response_output_tokens"]) == (None, 99)
    assert "audio" not in session


def test_beta_events_and_parts_are_renamed_both_ways() -> None:
    old = Old()
    events = old.written({"type": "conversation.item.create", "item": {
        "type": "message", "role": "assistant", "content": [{"type": "text", "text": "hi"}]}})  # fmt: skip
    assert events[0]["type"] == "conversation.item.created"
    assert events[0]["item"]["content"][0]["type"] == "text"
    (created, _) = old.written({"type": "response.create", "response": {"modalities": ["text"]}})
    assert created["response"]["modalities"] == ["text"]
    old.protocol = old.old
    outputs = old.conversation.step(__import__("vivavoce.server.signals", fromlist=["Said"]).Said(1, "hi"), old.now)
    names = [json.loads(old.old.send(e))["type"] for e in outputs if hasattr(e, "event_id")]
    assert names[-1] == "response.text.delta"


def test_a_transcription_session_of_the_beta() -> None:
    (updated,) = Old().written({"type": "transcription_session.update", "session": {"input_audio_format": "pcm16"}})
    assert updated["type"] == "transcription_session.updated"


def test_what_is_no_alias_passes_through() -> None:
    event = {"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"voice": "a"}}}}
    assert modern(event) == event
    assert modern({"type": "x", "session": 7, "item": None}) == {"type": "x", "session": 7, "item": None}
