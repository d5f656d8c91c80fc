"""Every event that OpenAI's client can send is understood, and audio is decoded within limits."""

from __future__ import annotations

import base64
from typing import Any, get_args

import pytest
from openai.types.realtime import RealtimeClientEvent, SessionUpdateEventParam, session_update_event_param
from pydantic import TypeAdapter, ValidationError

from vivavoce.server import items
from vivavoce.server.requests import ClientEvent

OURS: TypeAdapter[Any] = TypeAdapter(ClientEvent)
SESSION: session_update_event_param.Session = {
    "type": "realtime", "instructions": "Be brief.", "output_modalities": ["audio"], "tool_choice": "auto",
    "audio": {"input": {"format": {"type": "audio/pcm", "rate": 24000}, "noise_reduction": {"type": "near_field"},
                        "transcription": {"model": "whisper-1", "language": "en"},
                        "turn_detection": {"type": "semantic_vad", "eagerness": "low", "create_response": True}},
              "output": {"format": {"type": "audio/pcmu"}, "voice": "marin", "speed": 1.1}},
    "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}],
    "max_output_tokens": "inf", "tracing": "auto", "truncation": "auto", "parallel_tool_calls": True,
}  # fmt: skip
UPDATE: SessionUpdateEventParam = {"type": "session.update", "session": SESSION}
EVENTS: list[Any] = [
    UPDATE,
    {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {"turn_detection": None}}}},
    {"type": "input_audio_buffer.append", "audio": "AAAA", "event_id": "e"},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "output_audio_buffer.clear"},
    {"type": "conversation.item.create", "previous_item_id": "root",
     "item": {"type": "function_call_output", "call_id": "c", "output": "42"}},
    {"type": "conversation.item.retrieve", "item_id": "i"},
    {"type": "conversation.item.truncate", "item_id": "i", "content_index": 0, "audio_end_ms": 1500},
    {"type": "conversation.item.delete", "item_id": "i"},
    {"type": "response.create"},
    {"type": "response.create", "response": {"conversation": "none", "instructions": "x", "metadata": {"a": "b"},
     "input": [{"type": "item_reference", "id": "i"}], "audio": {"output": {"voice": "cedar"}}}},
    {"type": "response.cancel", "response_id": "r"},
]  # fmt: skip


@pytest.mark.parametrize("event", EVENTS)
def test_what_their_client_sends_is_understood(event: Any) -> None:
    assert OURS.validate_python(event).type == event["type"]


def test_none_of_their_events_is_missing() -> None:
    theirs = {get_args(m.model_fields["type"].annotation)[0] for m in get_args(get_args(RealtimeClientEvent)[0])}
    assert theirs == {event["type"] for event in EVENTS}


def test_audio_is_decoded() -> None:
    event = {"type": "input_audio_buffer.append", "audio": base64.b64encode(b"\x01\x02").decode()}
    assert OURS.validate_python(event).audio == b"\x01\x02"


@pytest.mark.parametrize("audio", ["A", "AA\nAA", "é", 7, None, "A" * (items.AUDIO + 4)])
def test_what_is_no_base64_or_too_much_is_refused(audio: Any) -> None:
    with pytest.raises(ValidationError):
        OURS.validate_python({"type": "input_audio_buffer.append", "audio": audio})
