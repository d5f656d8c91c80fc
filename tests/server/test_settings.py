"""What a client may set, and what an update leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from vivavoce.server.settings import RealtimeSettings, Settings, TranscriptionSettings, updated

SETTINGS: TypeAdapter[Any] = TypeAdapter(Settings)


def patched(current: Any, **fields: Any) -> Any:
    return updated(current, SETTINGS.validate_python({"type": current.type, **fields}))


def test_an_update_of_nested_settings_changes_only_what_it_names() -> None:
    first = patched(RealtimeSettings(), audio={"input": {"turn_detection": {"threshold": 0.7, "type": "server_vad"}}})
    second = patched(first, audio={"output": {"speed": 1.2}}, vivavoce={"lookahead_ms": 480})
    assert second.audio.input.turn_detection.threshold == 0.7
    assert second.audio.output.speed == 1.2
    assert (second.vivavoce.lookahead_ms, second.vivavoce.stats) == (480, False)


def test_another_kind_of_turn_detection_starts_afresh_and_none_is_none() -> None:
    semantic = patched(RealtimeSettings(), audio={"input": {"turn_detection": {"type": "semantic_vad"}}})
    assert semantic.audio.input.turn_detection.eagerness == "auto"
    none = patched(semantic, audio={"input": {"turn_detection": None}})
    assert none.audio.input.turn_detection is None
    back = patched(none, audio={"input": {"turn_detection": {"type": "server_vad"}}})
    assert back.audio.input.turn_detection.silence_duration_ms == 500


def test_a_speed_that_no_voice_has_is_refused() -> None:
    assert patched(RealtimeSettings(), audio={"output": {"speed": 0.5}}).audio.output.speed == 0.5
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.5"):
        patched(RealtimeSettings(), audio={"output": {"speed": 0.3}})


def test_lists_are_replaced() -> None:
    tool = {"type": "function", "name": "a", "parameters": {}}
    one = patched(RealtimeSettings(), tools=[tool])
    assert [t.name for t in patched(one, tools=[tool | {"name": "b"}]).tools] == ["b"]
    assert patched(one, tools=[]).tools == []


@pytest.mark.parametrize(
    "session",
    [
        {"type": "realtime", "colour": "red"},
        {"type": "transcription", "instructions": "none here"},
        {"type": "other"},
        {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 11025}}}},
        {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": float("nan")}}}},
        {"type": "realtime", "output_modalities": []},
        {"type": "realtime", "vivavoce": {"lookahead_ms": 6000}},
    ],
)
def test_what_cannot_be_is_refused(session: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SETTINGS.validate_python(session)


def test_a_session_without_a_type_is_a_realtime_one() -> None:
    assert isinstance(SETTINGS.validate_python({}), RealtimeSettings)
    assert isinstance(SETTINGS.validate_python({"type": "transcription"}), TranscriptionSettings)
