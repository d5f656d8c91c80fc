"""The items of a conversation, as clients send and get them: messages, tool calls and their results.

Fields that are None are left out of what is sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer

from .settings import Strict

Id = Annotated[str, Field(min_length=1, max_length=128)]
Status = Literal["in_progress", "completed", "incomplete"]
TEXT = 1_000_000  # characters of one text
AUDIO = 16 * 1024 * 1024  # characters of base64


class Sparse(Strict):
    """What is None is not sent."""

    @model_serializer(mode="wrap")
    def _sparse(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class InputText(Sparse):
    type: Literal["input_text"]
    text: str = Field(max_length=TEXT)


class InputAudio(Sparse):
    """audio: base64 in the session's input format, from clients only; transcript: None until it was heard."""

    type: Literal["input_audio"]
    audio: str | None = Field(default=None, max_length=AUDIO)
    transcript: str | None = Field(default=None, max_length=TEXT)


class OutputText(Sparse):
    type: Literal["output_text"]
    text: str = Field(default="", max_length=TEXT)


class OutputAudio(Sparse):
    type: Literal["output_audio"]
    transcript: str | None = Field(default=None, max_length=TEXT)
    audio: str | None = Field(default=None, max_length=AUDIO)


class _Item(Sparse):
    id: Id | None = None
    object: Literal["realtime.item"] | None = None
    status: Status | None = None


class SystemMessage(_Item):
    type: Literal["message"]
    role: Literal["system"]
    content: list[InputText] = Field(max_length=64)


class UserMessage(_Item):
    type: Literal["message"]
    role: Literal["user"]
    content: list[Annotated[InputText | InputAudio, Discriminator("type")]] = Field(max_length=64)

    @property
    def sounds(self) -> list[str]:
        """The audio in it that is still to be heard."""
        return [part.audio for part in self.content
                if isinstance(part, InputAudio) and part.audio and part.transcript is None]  # fmt: skip


class AssistantMessage(_Item):
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[Annotated[OutputText | OutputAudio, Discriminator("type")]] = Field(max_length=64)


class FunctionCall(_Item):
    type: Literal["function_call"]
    name: str
    arguments: str = Field(max_length=TEXT)
    call_id: str | None = None


class FunctionCallOutput(_Item):
    type: Literal["function_call_output"]
    call_id: str
    output: str = Field(max_length=TEXT)


class Reference(Strict):
    """An item of the conversation, in the input of a response outside of it."""

    type: Literal["item_reference"]
    id: Id


_MEANT = "an item is a message of system, user or assistant, a function_call or a function_call_output"


def _kind(value: Any) -> str:
    fields = value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}
    return str(fields.get("role" if fields.get("type") == "message" else "type"))


Item = Annotated[
    Annotated[SystemMessage, Tag("system")]
    | Annotated[UserMessage, Tag("user")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message=_MEANT),
]
ItemOrReference = Annotated[
    Annotated[SystemMessage, Tag("system")]
    | Annotated[UserMessage, Tag("user")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[Reference, Tag("item_reference")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message=_MEANT),
]
