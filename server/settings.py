"""What a client may set in a session, as the OpenAI Realtime protocol names it, and how an update changes it.

`session.update` brings any part of it; what it names replaces what was there. Unknown fields are errors. Some settings
are taken for compatibility and change nothing here: tracing, reasoning, noise_reduction, truncation, the
transcription's language, prompt and delay.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from vivavoce.speech.tts.ssml import SLOWEST

INSTRUCTIONS = "You are a helpful voice assistant. Answer briefly, in words that are easy to hear."
LONGEST = 100_000  # characters of instructions


class Strict(BaseModel):
    """An unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class Pcm(Strict):
    """16 bits, little endian, mono. The protocol knows 24 kHz only; other rates are an extension."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[8000, 16000, 24000, 48000] = 24000


class Pcmu(Strict):
    """G.711 mu-law at 8 kHz."""

    type: Literal["audio/pcmu"]


class Pcma(Strict):
    """G.711 A-law at 8 kHz."""

    type: Literal["audio/pcma"]


Format = Annotated[Pcm | Pcmu | Pcma, Discriminator("type")]


class ServerVad(Strict):
    """A turn ends after so much silence. idle_timeout_ms: how long nobody may speak before the agent does."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=2000)
    silence_duration_ms: int = Field(default=500, ge=32, le=10_000)
    idle_timeout_ms: int | None = Field(default=None, ge=1000, le=600_000)
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(Strict):
    """A turn ends after a silence that is shorter the more complete what was said sounds. eagerness: auto is medium."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = Annotated[ServerVad | SemanticVad, Discriminator("type")]


class Transcription(Strict):
    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: str | None = None
    keywords: list[str] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class NoiseReduction(Strict):
    type: Literal["near_field", "far_field"] | None = None
    strength: float | None = None


class AudioInput(Strict):
    """transcription: None sends no transcription events; turn_detection: None leaves it to the client to commit."""

    format: Format = Pcm()
    transcription: Transcription | None = Transcription()
    noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetection | None = ServerVad()


class VoiceId(Strict):
    id: str


class AudioOutput(Strict):
    format: Format = Pcm()
    voice: str | VoiceId = "default"
    speed: float = Field(default=1.0, ge=SLOWEST, le=1.5)


class Audio(Strict):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class HeardAudio(Strict):
    input: AudioInput = AudioInput()


class Tool(Strict):
    """parameters: a JSON schema."""

    type: Literal["function"] = "function"
    name: str = Field(min_length=1, max_length=256)
    description: str = ""
    parameters: dict[str, Any] = {}


class ToolName(Strict):
    type: Literal["function"]
    name: str


ToolChoice = Literal["none", "auto", "required"] | ToolName
MaxTokens = Annotated[int, Field(ge=1, le=100_000)] | Literal["inf"]
Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)]
Include = list[Literal["item.input_audio_transcription.logprobs"]]


class Extension(Strict):
    """lookahead_ms: how long the recogniser may wait for what comes next, 0 to 5520, in steps of 80, rounded down;
    adaptive_lookahead: longer while words come unclear; stats: send `vivavoce.stats`. resume_token is the server's to
    give; a client may send it back unread."""

    lookahead_ms: int = Field(default=80, ge=0, le=5520)
    adaptive_lookahead: bool = False
    stats: bool = False
    resume_token: str | None = None


class RealtimeSettings(Strict):
    """A session that talks back."""

    type: Literal["realtime"] = "realtime"
    model: str | None = None
    instructions: str = Field(default=INSTRUCTIONS, max_length=LONGEST)
    output_modalities: Modalities = ["audio"]
    audio: Audio = Audio()
    tools: list[Tool] = Field(default=[], max_length=128)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    max_output_tokens: MaxTokens = "inf"
    temperature: float | None = Field(default=None, ge=0, le=2)
    include: Include | None = None
    prompt: None = None
    tracing: Literal["auto"] | dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | dict[str, Any] = "auto"
    reasoning: dict[str, Any] | None = None
    vivavoce: Extension = Extension()


class TranscriptionSettings(Strict):
    """A session that only listens."""

    type: Literal["transcription"] = "transcription"
    audio: HeardAudio = HeardAudio()
    include: Include | None = None
    vivavoce: Extension = Extension(lookahead_ms=480)


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else "realtime"


Settings = Annotated[
    Annotated[RealtimeSettings, Tag("realtime")] | Annotated[TranscriptionSettings, Tag("transcription")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="its type is `realtime` or `transcription`"),
]

_NESTED = {"audio", "input", "output", "vivavoce", "transcription", "turn_detection", "noise_reduction"}


def updated(
    current: RealtimeSettings | TranscriptionSettings, patch: RealtimeSettings | TranscriptionSettings
) -> RealtimeSettings | TranscriptionSettings:
    """What is set after an update of the same type: of nested settings too, only what the update names changes."""
    return type(current).model_validate(_merged(current.model_dump(), patch.model_dump(exclude_unset=True)))


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    out = dict(old)
    for key, value in new.items():
        before: Any = out.get(key)
        nested = key in _NESTED and isinstance(before, dict) and isinstance(value, dict)
        out[key] = _merged(before, value) if nested and _same_kind(before, value) else value
    return out


def _same_kind(old: Any, new: Any) -> bool:
    """Another kind of turn detection starts afresh."""
    return bool(old.get("type") == new.get("type", old.get("type")))
