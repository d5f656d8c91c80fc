"""What a client does in a spoken conversation: the server's events go in, one at a time, and what to play, to send and
to show comes out. It knows no socket, no device and no clock; `agent` has those.

Talked over, the reply pauses at once; the server then says whether it goes on or is cut, and learns how much was heard.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Event = Mapping[str, Any]
Pcm = NDArray[np.int16]
RATE = 24000  # Hz, of all sound on the wire
TRANSCRIPTION = "conversation.item.input_audio_transcription"


@dataclass(frozen=True)
class Play:
    """Sound of an item (samples,), after what was given before."""

    item: str
    pcm: Pcm


@dataclass(frozen=True)
class Pause:
    """Fall silent now and keep what was not heard."""


@dataclass(frozen=True)
class Resume:
    """Play on where it was paused."""


@dataclass(frozen=True)
class Clear:
    """Fall silent now, forget what was not heard, and answer with `Duplex.cleared`."""


@dataclass(frozen=True)
class Send:
    event: Event


@dataclass(frozen=True)
class Show:
    """A line of the conversation; not `final`, it will be shown again, longer. tail: words that may still change."""

    who: str
    text: str
    tail: str = ""
    final: bool = False


@dataclass(frozen=True)
class Stages:
    """From the user's last sound to the reply's first, as the server measured it: (name, ms)."""

    stages: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Trouble:
    """What the server found wrong."""

    code: str
    message: str
    retry_after: float | None = None


Output = Play | Pause | Resume | Clear | Send | Show | Stages | Trouble
YOU, AGENT = "You", "Agent"


@dataclass
class Duplex:
    """One conversation. `playing`, wherever it is asked for, says whether a reply is being heard at that moment."""

    lines: dict[str, str] = field(default_factory=dict)  # of items not finished yet: their text
    cut: set[str] = field(default_factory=set)  # items of which nothing more is wanted
    spoken: list[str] = field(default_factory=list)  # replies complete but perhaps not heard to their end
    paused: bool = False
    stopped_at_ms: int | None = None  # where in the session's audio the user last fell silent

    def receive(self, event: Event, playing: bool) -> list[Output]:
        act = _ACTS.get(str(event.get("type")))
        return list(act(self, event, playing)) if act else []

    def tick(self, playing: bool) -> list[Output]:
        """Shows replies as final once they were heard."""
        return [] if playing or self.paused else self._finish(self.spoken)

    def cleared(self, item: str, played: int, given: int) -> list[Output]:
        """After `Clear`: of the item that was playing, so many samples were heard of those given."""
        self.cut.add(item)
        if played >= given:
            return []
        truncate = {"item_id": item, "content_index": 0, "audio_end_ms": played * 1000 // RATE}
        return [Send({"type": "conversation.item.truncate", **truncate})]

    def _finish(self, items: Sequence[str], mark: str = "") -> list[Output]:
        lines = [Show(AGENT, self.lines.pop(item).strip() + mark, final=True) for item in items if item in self.lines]
        self.spoken = [item for item in self.spoken if item in self.lines]
        return [*lines]

    def _started(self, event: Event, playing: bool) -> Sequence[Output]:
        if not playing or self.paused:
            return []
        self.paused = True
        return [Pause()]

    def _stopped(self, event: Event, playing: bool) -> Sequence[Output]:
        self.stopped_at_ms = event["audio_end_ms"]
        return []

    def _resumed(self, event: Event, playing: bool) -> Sequence[Output]:
        was, self.paused = self.paused, False
        return [Resume()] if was else []

    def _clear(self, event: Event, playing: bool) -> Sequence[Output]:
        if not (playing or self.paused):
            return []
        self.paused = False
        return [Clear()]

    def _responded(self, event: Event, playing: bool) -> Sequence[Output]:
        response = event["response"]
        if response["status"] == "failed":
            error = (response.get("status_details") or {}).get("error") or {}
            return [Trouble(error.get("code") or "failed", error.get("message") or "the reply failed")]
        return self._clear(event, playing) if response["status"] == "cancelled" else []

    def _response(self, event: Event, playing: bool) -> Sequence[Output]:
        return self._clear(event, playing) if self.paused else []  # what was talked over has been answered

    def _audio(self, event: Event, playing: bool) -> Sequence[Output]:
        if event["item_id"] in self.cut:
            return []
        return [Play(event["item_id"], np.frombuffer(base64.b64decode(event["delta"]), "<i2"))]

    def _heard(self, event: Event, playing: bool) -> Sequence[Output]:
        item = event["item_id"]
        self.lines[item] = self.lines.get(item, "") + event["delta"]
        return [Show(YOU, self.lines[item].strip(), ((event.get("vivavoce") or {}).get("tail") or "").strip())]

    def _understood(self, event: Event, playing: bool) -> Sequence[Output]:
        self.lines.pop(event["item_id"], None)
        text = event.get("transcript", "").strip()
        return [Show(YOU, text, final=True)] if text else []

    def _says(self, event: Event, playing: bool) -> Sequence[Output]:
        item = event["item_id"]
        if item in self.cut:
            return []
        self.lines[item] = self.lines.get(item, "") + event["delta"]
        return [Show(AGENT, self.lines[item].strip())]

    def _said(self, event: Event, playing: bool) -> Sequence[Output]:
        if event["item"]["id"] in self.lines:
            self.spoken.append(event["item"]["id"])
        return []

    def _truncated(self, event: Event, playing: bool) -> Sequence[Output]:
        return [Send({"type": "conversation.item.retrieve", "item_id": event["item_id"]})]

    def _retrieved(self, event: Event, playing: bool) -> Sequence[Output]:
        item, content = event["item"], event["item"].get("content") or [{}]
        if item["id"] not in self.lines:
            return []
        self.lines[item["id"]] = content[0].get("transcript") or content[0].get("text") or ""
        return self._finish([item["id"]], mark=" —")

    def _stats(self, event: Event, playing: bool) -> Sequence[Output]:
        return [Stages(tuple((stage["name"], stage["ms"]) for stage in event["stages"]))]

    def _error(self, event: Event, playing: bool) -> Sequence[Output]:
        error = event["error"]
        return [Trouble(error.get("code") or error.get("type") or "", error["message"], error.get("retry_after_s"))]


_ACTS = {
    "input_audio_buffer.speech_started": Duplex._started,
    "input_audio_buffer.speech_stopped": Duplex._stopped,
    "vivavoce.output_audio.resumed": Duplex._resumed,
    "output_audio_buffer.cleared": Duplex._clear,
    "response.created": Duplex._response,
    "response.done": Duplex._responded,
    "response.output_audio.delta": Duplex._audio,
    "response.output_audio_transcript.delta": Duplex._says,
    "response.output_text.delta": Duplex._says,
    "response.output_item.done": Duplex._said,
    "conversation.item.truncated": Duplex._truncated,
    "conversation.item.retrieved": Duplex._retrieved,
    f"{TRANSCRIPTION}.delta": Duplex._heard,
    f"{TRANSCRIPTION}.completed": Duplex._understood,
    f"{TRANSCRIPTION}.failed": Duplex._understood,
    "vivavoce.stats": Duplex._stats,
    "error": Duplex._error,
}
