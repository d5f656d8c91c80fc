"""What a response is to be and what the model is asked, from the session's settings and what one response overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import signals
from .history import Message
from .requests import ResponseParams
from .responding import Wanted
from .settings import RealtimeSettings, ToolChoice, ToolName, VoiceId


def wanted(settings: RealtimeSettings, params: ResponseParams) -> Wanted:
    output = params.audio.output if params.audio and params.audio.output else None
    voice = (output and output.voice) or settings.audio.output.voice
    return Wanted(
        modalities=params.output_modalities or settings.output_modalities,
        format=(output and output.format) or settings.audio.output.format,
        voice=voice.id if isinstance(voice, VoiceId) else voice,
        rate=settings.audio.output.speed,
        max_tokens=params.max_output_tokens or settings.max_output_tokens,
        metadata=params.metadata,
        remembered=params.conversation == "auto",
    )


def prompt(settings: RealtimeSettings, params: ResponseParams, messages: Sequence[Message]) -> signals.Prompt:
    """messages: what was said, without the instructions."""
    instructions = settings.instructions if params.instructions is None else params.instructions
    system: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    limit = params.max_output_tokens or settings.max_output_tokens
    return signals.Prompt(
        messages=(*system, *messages),
        tools=tuple(_tool(tool.model_dump()) for tool in (settings.tools if params.tools is None else params.tools)),
        tool_choice=_choice(params.tool_choice or settings.tool_choice),
        max_tokens=None if limit == "inf" else limit,
        temperature=settings.temperature if params.temperature is None else params.temperature,
    )


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """As chat completions have it."""
    return {"type": "function", "function": {key: tool[key] for key in ("name", "description", "parameters")}}


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, ToolName) else choice
