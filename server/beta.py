"""The names the protocol had before it was final: translated into today's on the way in, and back on the way out.

Every client may use them; they are written only to one that asked for the beta. Pure functions on JSON objects; what is
not a known alias passes through for the models to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]

FORMATS = {"pcm16": {"type": "audio/pcm"}, "g711_ulaw": {"type": "audio/pcmu"}, "g711_alaw": {"type": "audio/pcma"}}
_FORMAT_NAMES = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}

# where a flat field of the beta's session or response went
_SESSION: Mapping[str, tuple[str, ...]] = {
    "modalities": ("output_modalities",),
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "input_audio_format": ("audio", "input", "format"),
    "output_audio_format": ("audio", "output", "format"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "max_response_output_tokens": ("max_output_tokens",),
}
_RESPONSE = {key: path for key, path in _SESSION.items() if "input" not in path}
_EVENTS = {
    "response.output_text.": "response.text.",
    "response.output_audio.": "response.audio.",
    "response.output_audio_transcript.": "response.audio_transcript.",
    "conversation.item.added": "conversation.item.created",
}
_PARTS = {"system": {"text": "input_text"}, "user": {"text": "input_text", "audio": "input_audio"},
          "assistant": {"text": "output_text", "audio": "output_audio"}}  # fmt: skip


def modern(event: Json) -> Json:
    """A client's event under today's names."""
    event = dict(event)
    if event.get("type") == "transcription_session.update":
        event["type"] = "session.update"
        if isinstance(event.get("session"), dict):
            event["session"] = {"type": "transcription"} | event["session"]
    _change(event, "session", lambda session: _nested(session, _SESSION))
    _change(event, "response", lambda response: _nested(response, _RESPONSE))
    _change(event, "item", _modern_item)
    return event


def dated(event: Json) -> Json:
    """A server's event under the beta's names."""
    event = dict(event)
    for new, old in _EVENTS.items():
        if event["type"].startswith(new):
            event["type"] = old + event["type"].removeprefix(new)
    if event["type"].startswith("session.") and event["session"].get("type") == "transcription":
        event["type"] = f"transcription_{event['type']}"
    _change(event, "session", lambda session: _flat(session, _SESSION))
    _change(event, "response", lambda response: _flat(_change(response, "output", _dated_items), _RESPONSE))
    _change(event, "item", _dated_item)
    return event


def _change(holder: Json, key: str, change: Callable[[Any], Any]) -> Json:
    """Replaces what is under the key when it is an object or a list."""
    if isinstance(holder.get(key), dict | list):
        holder[key] = change(holder[key])
    return holder


def _nested(flat: Any, paths: Mapping[str, tuple[str, ...]]) -> Any:
    if not isinstance(flat, dict):
        return flat
    out = {key: value for key, value in flat.items() if key not in paths}
    for key, path in paths.items():
        if key in flat:
            _put(out, path, _modern_value(key, flat[key]))
    return out


def _modern_value(key: str, value: Any) -> Any:
    if key.endswith("_format") and isinstance(value, str):
        return FORMATS.get(value, {"type": value})
    if key == "modalities" and isinstance(value, list):
        return ["audio"] if "audio" in value else value
    return value


def _put(holder: Json, path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for name in parents:
        child = holder.get(name)
        holder[name] = holder = dict(child) if isinstance(child, dict) else {}
    holder[last] = value


def _flat(nested: Any, paths: Mapping[str, tuple[str, ...]]) -> Json:
    out = {key: value for key, value in nested.items() if key not in ("audio", "output_modalities")}
    for key, path in paths.items():
        value: Any = nested
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if key.endswith("_format") and isinstance(value, dict):
            value = _FORMAT_NAMES[value["type"]]
        if key == "modalities" and value == ["audio"]:
            value = ["audio", "text"]
        if value is not None or key == "turn_detection":
            out[key] = value
    out.pop("max_output_tokens", None)
    return out


def _modern_item(item: Any) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("content"), list):
        return item
    names = _PARTS.get(str(item.get("role")), {})

    def renamed(part: Any) -> Any:
        return part | {"type": names.get(part["type"], part["type"])} if _named(part) else part

    return item | {"content": [renamed(part) for part in item["content"]]}


def _named(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type"), str)


def _dated_items(items: Any) -> Any:
    return [_dated_item(item) for item in items]


def _dated_item(item: Json) -> Json:
    if item.get("role") != "assistant":
        return item
    return item | {"content": [part | {"type": part["type"].removeprefix("output_")} for part in item["content"]]}
