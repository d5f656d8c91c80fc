"""Frames in, events out; nothing that comes in raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.server.events import Cleared, Refused
from vivavoce.server.protocol import LARGEST, Protocol
from vivavoce.server.requests import InputAudioBufferAppend, InputAudioBufferCommit

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", "session", "item", "audio"]) |
                                                                st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
KINDS = st.sampled_from(
    ["session.update", "conversation.item.create", "response.create", "input_audio_buffer.append", "x"]
)


def code(frame: str | bytes) -> str | None:
    refused = Protocol().receive(frame)
    assert isinstance(refused, Refused)
    return refused.error.code


@given(st.text() | st.binary())
def test_no_frame_raises(frame: str | bytes) -> None:
    Protocol().receive(frame)


@given(KINDS, st.dictionaries(st.sampled_from(["session", "item", "response", "audio", "event_id"]), JSON))
def test_no_event_raises(kind: str, fields: dict[str, object]) -> None:
    Protocol().receive(json.dumps({"type": kind} | fields))


def test_bytes_are_audio_and_text_is_an_event() -> None:
    assert Protocol().receive(b"\x00\x01") == InputAudioBufferAppend(audio=b"\x00\x01")
    assert Protocol().receive('{"type":"input_audio_buffer.commit"}') == InputAudioBufferCommit(
        type="input_audio_buffer.commit")  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("{", "invalid_json"),
        ("[" * 10**5, "invalid_json"),
        ('{"type":"x","a":NaN}', "invalid_json"),
        (r'{"type":"session.update","session":{"instructions":"\ud800"}}', "invalid_json"),
        ("[]", "invalid_event"),
        ('{"type":1}', "invalid_event"),
        ('{"type":"session.update","a":' + "[" * 99 + "]" * 99 + "}", "invalid_event"),
        ('{"type":"nobody"}', "unknown_event"),
        ('{"type":"session.update"}', "missing_required_parameter"),
        ('{"type":"input_audio_buffer.append","audio":"?"}', "invalid_base64"),
        ('{"type":"input_audio_buffer.commit","x":1}', "unknown_parameter"),
        ('{"type":"response.create","response":{"temperature":9}}', "invalid_value"),
        ("x" * (LARGEST + 1), "frame_too_large"),
    ],
)
def test_what_is_wrong_has_its_code(frame: str, expected: str) -> None:
    assert code(frame) == expected


def test_an_error_names_the_clients_event_and_field() -> None:
    refused = Protocol().receive('{"type":"session.update","event_id":"e1","session":{"audio":{"input":{"x":1}}}}')
    assert isinstance(refused, Refused)
    assert (refused.error.event_id, refused.error.param) == ("e1", "session.audio.input.x")


def test_events_go_out_as_json() -> None:
    assert json.loads(Protocol().send(Cleared(event_id="e"))) == {"type": "input_audio_buffer.cleared", "event_id": "e"}
