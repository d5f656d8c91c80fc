"""The events a client is sent, under the GA names of the OpenAI Realtime protocol.

The conversation makes them and fills in their event_id; `protocol` writes them out. Those named `vivavoce.*`, and the
fields named `vivavoce`, are this server's extensions; other clients ignore them.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from pydantic import BaseModel

from .items import Item, Sparse


class ErrorInfo(BaseModel):
    """event_id: the client's, of the event that is wrong. retry_after_s: an extension, for a full server."""

    type: str = "invalid_request_error"
    code: str | None = None
    message: str
    param: str | None = None
    event_id: str | None = None
    retry_after_s: float | None = None


class Refused(BaseModel):
    """What `Protocol.receive` gives for a frame it cannot take; the conversation answers it with `error`."""

    error: ErrorInfo


class ServerEvent(Sparse):
    type: str
    event_id: str = ""


class SessionCreated(ServerEvent):
    """session: the settings, with id, object, expires_at and model."""

    type: Literal["session.created"] = "session.created"
    session: dict[str, Any]


class SessionUpdated(ServerEvent):
    type: Literal["session.updated"] = "session.updated"
    session: dict[str, Any]


class Error(ServerEvent):
    type: Literal["error"] = "error"
    error: ErrorInfo


class SpeechStarted(ServerEvent):
    type: Literal["input_audio_buffer.speech_started"] = "input_audio_buffer.speech_started"
    audio_start_ms: int
    item_id: str


class SpeechStopped(ServerEvent):
    type: Literal["input_audio_buffer.speech_stopped"] = "input_audio_buffer.speech_stopped"
    audio_end_ms: int
    item_id: str


class Committed(ServerEvent):
    type: Literal["input_audio_buffer.committed"] = "input_audio_buffer.committed"
    item_id: str
    previous_item_id: str | None = None


class Cleared(ServerEvent):
    type: Literal["input_audio_buffer.cleared"] = "input_audio_buffer.cleared"


class TimeoutTriggered(ServerEvent):
    type: Literal["input_audio_buffer.timeout_triggered"] = "input_audio_buffer.timeout_triggered"
    audio_start_ms: int
    audio_end_ms: int
    item_id: str


class ItemAdded(ServerEvent):
    type: Literal["conversation.item.added"] = "conversation.item.added"
    previous_item_id: str | None = None
    item: Item


class ItemDone(ServerEvent):
    type: Literal["conversation.item.done"] = "conversation.item.done"
    previous_item_id: str | None = None
    item: Item


class ItemRetrieved(ServerEvent):
    type: Literal["conversation.item.retrieved"] = "conversation.item.retrieved"
    item: Item


class ItemTruncated(ServerEvent):
    type: Literal["conversation.item.truncated"] = "conversation.item.truncated"
    item_id: str
    content_index: int
    audio_end_ms: int


class ItemDeleted(ServerEvent):
    type: Literal["conversation.item.deleted"] = "conversation.item.deleted"
    item_id: str


class LogProb(BaseModel):
    token: str
    bytes: list[int]
    logprob: float


class Tail(BaseModel):
    """tail: words after the delta that may still change; end_ms: how much of the session's audio all of it rests on."""

    tail: str
    end_ms: int


class TranscriptionDelta(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.delta"] = (
        "conversation.item.input_audio_transcription.delta"
    )
    item_id: str
    content_index: int = 0
    delta: str
    logprobs: list[LogProb] | None = None
    vivavoce: Tail | None = None


class Duration(BaseModel):
    type: Literal["duration"] = "duration"
    seconds: float


class TranscriptionCompleted(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.completed"] = (
        "conversation.item.input_audio_transcription.completed"
    )
    item_id: str
    content_index: int = 0
    transcript: str
    usage: Duration
    logprobs: list[LogProb] | None = None


class TranscriptionFailed(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.failed"] = (
        "conversation.item.input_audio_transcription.failed"
    )
    item_id: str
    content_index: int = 0
    error: ErrorInfo


class StatusDetails(Sparse):
    type: Literal["completed", "cancelled", "incomplete", "failed"]
    reason: Literal["turn_detected", "client_cancelled", "max_output_tokens", "content_filter"] | None = None
    error: ErrorInfo | None = None


class TokenUsage(BaseModel):
    total_tokens: int
    input_tokens: int
    output_tokens: int


class Response(Sparse):
    object: Literal["realtime.response"] = "realtime.response"
    id: str
    status: Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
    status_details: StatusDetails | None = None
    output: list[Item]
    conversation_id: str | None = None
    output_modalities: list[Literal["text", "audio"]]
    max_output_tokens: int | Literal["inf"]
    audio: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    usage: TokenUsage | None = None


class ResponseCreated(ServerEvent):
    type: Literal["response.created"] = "response.created"
    response: Response


class ResponseDone(ServerEvent):
    type: Literal["response.done"] = "response.done"
    response: Response


class _InResponse(ServerEvent):
    response_id: str
    output_index: int


class OutputItemAdded(_InResponse):
    type: Literal["response.output_item.added"] = "response.output_item.added"
    item: Item


class OutputItemDone(_InResponse):
    type: Literal["response.output_item.done"] = "response.output_item.done"
    item: Item


class Place(TypedDict):
    """Where in a response."""

    response_id: str
    output_index: int
    item_id: str


class _InItem(_InResponse):
    item_id: str


class _InPart(_InItem):
    content_index: int = 0


class Part(Sparse):
    type: Literal["text", "audio"]
    text: str | None = None
    transcript: str | None = None


class ContentPartAdded(_InPart):
    type: Literal["response.content_part.added"] = "response.content_part.added"
    part: Part


class ContentPartDone(_InPart):
    type: Literal["response.content_part.done"] = "response.content_part.done"
    part: Part


class TextDelta(_InPart):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str


class TextDone(_InPart):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str


class AudioDelta(_InPart):
    """delta: base64 in the session's output format."""

    type: Literal["response.output_audio.delta"] = "response.output_audio.delta"
    delta: str


class AudioDone(_InPart):
    type: Literal["response.output_audio.done"] = "response.output_audio.done"


class AudioTranscriptDelta(_InPart):
    type: Literal["response.output_audio_transcript.delta"] = "response.output_audio_transcript.delta"
    delta: str


class AudioTranscriptDone(_InPart):
    type: Literal["response.output_audio_transcript.done"] = "response.output_audio_transcript.done"
    transcript: str


class ArgumentsDelta(_InItem):
    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    call_id: str
    delta: str


class ArgumentsDone(_InItem):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    call_id: str
    name: str
    arguments: str


class OutputCleared(ServerEvent):
    """The reply was cut off: what the client still holds of its sound is not to be played."""

    type: Literal["output_audio_buffer.cleared"] = "output_audio_buffer.cleared"
    response_id: str


class Resumed(ServerEvent):
    """An extension: after `speech_started` over a reply, it was no interruption; play on where it was paused."""

    type: Literal["vivavoce.output_audio.resumed"] = "vivavoce.output_audio.resumed"
    item_id: str


class RateLimit(BaseModel):
    name: Literal["requests", "tokens"]
    limit: int
    remaining: int
    reset_seconds: float


class RateLimitsUpdated(ServerEvent):
    type: Literal["rate_limits.updated"] = "rate_limits.updated"
    rate_limits: list[RateLimit]


class Stage(BaseModel):
    name: str
    ms: float


class Stats(ServerEvent):
    """An extension: from the user's last sound to the reply's first, stage by stage. response_id: whose."""

    type: Literal["vivavoce.stats"] = "vivavoce.stats"
    response_id: str
    stages: list[Stage]
