"""Frames to client events and server events to frames: the OpenAI Realtime protocol, with no sockets.

A text frame is one JSON event; a binary frame, an extension, is raw audio in the session's input format (PCM16 little
endian by default), the same as `input_audio_buffer.append`. What is wrong with a frame comes back as a `Refused`, which
the conversation answers with the protocol's `error`; no frame raises.

    protocol = Protocol(beta=False)              # beta: the client sent `OpenAI-Beta: realtime=v1`; it gets beta names
    event = protocol.receive(frame)              # str | bytes -> requests.ClientEvent | events.Refused
    text = protocol.send(server_event)           # events.ServerEvent -> str
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from . import beta as aliases
from .events import ErrorInfo, Refused, ServerEvent
from .requests import ClientEvent, InputAudioBufferAppend

LARGEST = 24 * 1024 * 1024  # characters or bytes of a frame: 15 MiB of audio in base64, with room for the rest
DEEPEST = 64  # levels of JSON

_adapter: TypeAdapter[ClientEvent] = TypeAdapter(ClientEvent)

# pydantic's kinds of error for the protocol's codes, and words of our own where pydantic's say too little
_CODES = {
    "union_tag_invalid": "invalid_value",
    "union_tag_not_found": "missing_required_parameter",
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "base64": "invalid_base64",
}
_TAGS = {"realtime", "transcription", "system", "user", "assistant", "function_call", "function_call_output",
         "audio/pcm", "audio/pcmu", "audio/pcma", "server_vad", "semantic_vad"}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """beta: what is sent bears the names the protocol had before it was final; what is received may always."""

    beta: bool = False

    def receive(self, frame: str | bytes) -> ClientEvent | Refused:
        if len(frame) > LARGEST:
            return refused("frame_too_large", f"a frame of {len(frame)} is too large; send at most {LARGEST} bytes")
        if isinstance(frame, bytes):
            return InputAudioBufferAppend(audio=frame)
        try:
            event = json.loads(frame, parse_constant=_no_number)
        except (ValueError, RecursionError) as e:
            return refused("invalid_json", f"not a JSON event ({str(e)[:100]}); send one object a text frame")
        if "\\ud" in frame.lower() and not _is_text(event):
            return refused("invalid_json", "the event holds half a surrogate pair; send well-formed Unicode")
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            return refused("invalid_event", "an event is a JSON object with a `type`, such as `session.update`", "type")
        return _validated(event)

    def send(self, event: ServerEvent) -> str:
        if not self.beta:
            return event.model_dump_json()
        return json.dumps(aliases.dated(event.model_dump()), ensure_ascii=False, separators=(",", ":"))


def refused(code: str, message: str, param: str | None = None, event_id: str | None = None) -> Refused:
    return Refused(error=ErrorInfo(code=code, message=message, param=param, event_id=event_id))


def _validated(event: Mapping[str, Any]) -> ClientEvent | Refused:
    event_id = event.get("event_id")
    event_id = event_id[:512] if isinstance(event_id, str) else None
    if _depth(event) > DEEPEST:
        return refused("invalid_event", f"the event is nested more than {DEEPEST} levels deep", None, event_id)
    try:
        return _adapter.validate_python(aliases.modern(dict(event)))
    except ValidationError as e:
        return _explained(e, str(event["type"])[:100], event_id)


def _explained(error: ValidationError, kind: str, event_id: str | None) -> Refused:
    """The first thing wrong, as the protocol says it."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = _path(first["loc"], kind)
    if not path and first["type"] == "union_tag_invalid":
        return refused("unknown_event", f"there is no client event {kind!r}", "type", event_id)
    known = _CODES.get(first["type"], "invalid_value")
    what = f"unknown field {path!r}" if known == "unknown_parameter" else f"{path}: {first['msg']}"
    return refused(known, f"{kind}: {what}", path, event_id)


def _path(loc: Sequence[str | int], kind: str) -> str:
    """Where it is, without the tags that pydantic puts between."""
    names = [str(name) for i, name in enumerate(loc) if not (i == 0 and name == kind) and name not in _TAGS]
    return ".".join(names)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _is_text(value: Any) -> bool:
    """Whether it can be written again: JSON's escapes can spell what is no character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _depth(value: Any) -> int:
    """Levels of nesting, counted without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [c for v in level if isinstance(v, dict | list) for c in (v.values() if isinstance(v, dict) else v)]
        if depth > DEEPEST:
            break
    return depth
