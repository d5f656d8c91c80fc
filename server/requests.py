"""The events a client may send, under the GA names of the OpenAI Realtime protocol.

Unknown fields are errors. `protocol` makes them from frames; `conversation` acts on them.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field
from pydantic_core import PydanticCustomError

from .items import AUDIO, Id, Item, ItemOrReference
from .settings import Format, MaxTokens, Modalities, Settings, Strict, Tool, ToolChoice, VoiceId


def _decoded(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("base64", "send the audio as base64 text")
    if len(value) > AUDIO:
        raise PydanticCustomError("too_long", "{n} characters are too many; send at most 15 MiB", {"n": len(value)})
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as e:
        raise PydanticCustomError("base64", "not base64: {why}", {"why": str(e)}) from e


class _Client(Strict):
    event_id: str | None = Field(default=None, max_length=512)


class SessionUpdate(_Client):
    type: Literal["session.update"]
    session: Settings


class InputAudioBufferAppend(_Client):
    """audio: bytes in the session's input format, decoded."""

    type: Literal["input_audio_buffer.append"] = "input_audio_buffer.append"
    audio: Annotated[bytes, BeforeValidator(_decoded)]


class InputAudioBufferCommit(_Client):
    type: Literal["input_audio_buffer.commit"]


class InputAudioBufferClear(_Client):
    type: Literal["input_audio_buffer.clear"]


class ItemCreate(_Client):
    type: Literal["conversation.item.create"]
    previous_item_id: str | None = None
    item: Item


class ItemRetrieve(_Client):
    type: Literal["conversation.item.retrieve"]
    item_id: Id


class ItemTruncate(_Client):
    type: Literal["conversation.item.truncate"]
    item_id: Id
    content_index: int = Field(default=0, ge=0)
    audio_end_ms: int = Field(ge=0, le=10**9)


class ItemDelete(_Client):
    type: Literal["conversation.item.delete"]
    item_id: Id


class ResponseOutput(Strict):
    format: Format | None = None
    voice: str | VoiceId | None = None


class ResponseAudio(Strict):
    output: ResponseOutput | None = None


class ResponseParams(Strict):
    """For one response instead of what the session says. input: instead of the conversation; conversation: none leaves
    no trace in it."""

    conversation: Literal["auto", "none"] = "auto"
    input: list[ItemOrReference] | None = Field(default=None, max_length=1000)
    instructions: str | None = None
    output_modalities: Modalities | None = None
    audio: ResponseAudio | None = None
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    prompt: None = None
    reasoning: dict[str, Any] | None = None


class ResponseCreate(_Client):
    type: Literal["response.create"]
    response: ResponseParams | None = None


class ResponseCancel(_Client):
    type: Literal["response.cancel"]
    response_id: str | None = None


class OutputAudioBufferClear(_Client):
    type: Literal["output_audio_buffer.clear"]


class Played(_Client):
    """An extension: so much of an item has been heard. Without it the server reckons with its clock."""

    type: Literal["vivavoce.output_audio.played"]
    item_id: Id
    audio_end_ms: int = Field(ge=0, le=10**9)


ClientEvent = Annotated[
    SessionUpdate
    | InputAudioBufferAppend
    | InputAudioBufferCommit
    | InputAudioBufferClear
    | ItemCreate
    | ItemRetrieve
    | ItemTruncate
    | ItemDelete
    | ResponseCreate
    | ResponseCancel
    | OutputAudioBufferClear
    | Played,
    Discriminator("type"),
]
