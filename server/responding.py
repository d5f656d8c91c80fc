"""The agent's side of a conversation: one response at a time, from the reply's text and the voice's sound to events.

A reply's text goes to the client and, where sound is wanted, to the voice; its tool calls become items. While somebody
may be interrupting, the response is paused: what comes is held until it goes on or is cut off. Failures are heard: the
agent says so in words, and the response ends as failed.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from . import events, items, signals
from .history import Entry, History
from .items import Item
from .outbox import Outbox
from .playback import Playback, Track
from .settings import Format, Modalities
from .sound import Mouth

SORRY = "Sorry, I can't answer that right now."
LOST = " Sorry, I lost my thread."
UNCOUNTED = signals.Usage()
SILENT = 60_000_000_000  # ns in which nothing comes of a model or a voice before it is given up

Reason = Literal["turn_detected", "client_cancelled"]


@dataclass(frozen=True)
class Wanted:
    """What a response is to be: the session's settings with what the client asked for in this one."""

    modalities: Modalities
    format: Format
    voice: str
    rate: float
    max_tokens: int | Literal["inf"]
    metadata: dict[str, str] | None = None
    remembered: bool = True


@dataclass(eq=False)
class Message:
    """The words of a response. mouth: what turns their sound into the client's format, None for text."""

    item_id: str
    index: int
    track: Track
    mouth: Mouth | None
    done: bool = False


@dataclass(eq=False)
class Call:
    item_id: str
    index: int
    call_id: str
    name: str
    arguments: str = ""
    done: bool = False

    def item(self, status: items.Status) -> items.FunctionCall:
        return items.FunctionCall(type="function_call", object="realtime.item", id=self.item_id, status=status,
                                  name=self.name, arguments=self.arguments, call_id=self.call_id)  # fmt: skip


@dataclass(eq=False)
class Response:
    """reply: its number once the model was asked; writing: whether more text may come; touched: ns when anything last
    came of it; at: ns of its steps."""

    id: str
    wanted: Wanted
    reply: int | None = None
    writing: bool = True
    message: Message | None = None
    calls: dict[int, Call] = field(default_factory=dict)
    output: list[Item] = field(default_factory=list)
    held: deque[signals.Spoken] = field(default_factory=deque)
    error: events.ErrorInfo | None = None
    cut: bool = False
    touched: int = 0
    usage: signals.Usage = UNCOUNTED
    at: dict[str, int] = field(default_factory=dict)

    @property
    def ending(self) -> items.Status:
        """Of its items, once nothing more is written."""
        return "incomplete" if self.cut or self.error else "completed"


class Responder:
    """limits: what `rate_limits.updated` says at each response's beginning."""

    def __init__(self, outbox: Outbox, history: History, limits: Callable[[], Sequence[events.RateLimit]]) -> None:
        self._out, self._history, self._limits = outbox, history, limits
        self.conversation_id = "conv_1"
        self.playback = Playback()
        self.active: Response | None = None
        self.sounded: Response | None = None  # the response whose first sound went out just now

    @property
    def audible(self) -> bool:
        """Whether there is a reply to interrupt, in the making or still to be heard."""
        return self.active is not None or self.playback.playing

    def create(self, wanted: Wanted, now: int) -> None:
        """Announce a response; `begin` when its prompt is there. There must be no other."""
        assert self.active is None
        self.active = Response(self._out.name("resp"), wanted, touched=now, at={"created": now})
        self._out.put(events.ResponseCreated(response=self._described(self.active, "in_progress")))
        self._out.put(events.RateLimitsUpdated(rate_limits=list(self._limits())))

    def begin(self, prompt: signals.Prompt, now: int) -> None:
        """Ask the model."""
        assert self.active is not None
        self.active.reply = self._out.number()
        self.active.at["asked"] = self.active.touched = now
        self._out.put(signals.StartReply(self.active.reply, prompt))

    def said(self, said: signals.Said, now: int) -> None:
        response = self._writing(said.reply)
        if response is not None and said.text:
            response.touched = now
            response.at.setdefault("text", now)
            self._write(response, said.text)

    def called(self, called: signals.Called, now: int) -> None:
        response = self._writing(called.reply)
        if response is None:
            return
        response.touched = now
        call = response.calls.get(called.index)
        if call is None:
            call = self._call(response, called)
        call.arguments += called.arguments
        if called.arguments:
            self._out.put(events.ArgumentsDelta(response_id=response.id, output_index=call.index, item_id=call.item_id,
                                                call_id=call.call_id, delta=called.arguments))  # fmt: skip

    def replied(self, replied: signals.Replied, now: int) -> None:
        response = self._writing(replied.reply)
        if response is not None:
            response.touched = now
            response.cut, response.usage = replied.reason == "length", replied.usage
            self._written(response)

    def failed(self, failed: signals.NoReply, now: int) -> None:
        """The user hears of it, and the response ends as failed."""
        response = self._writing(failed.reply)
        if response is None:
            return
        response.touched = now
        response.at.setdefault("text", now)
        response.error = events.ErrorInfo(type="server_error", code=failed.code, message=failed.message)
        self._write(response, LOST if response.message else SORRY)
        self._written(response)

    def spoken(self, spoken: signals.Spoken, now: int) -> None:
        response = self.active
        if response is None or self._speech(response) != spoken.speech:
            return
        response.touched = now
        if self.playback.paused:
            response.held.append(spoken)
        else:
            self._speak(response, spoken, now)

    def hoarse(self, hoarse: signals.Hoarse) -> None:
        """The voice is gone: the rest stays unheard, but is there to read."""
        response = self.active
        if response is None or self._speech(response) != hoarse.speech or response.message is None:
            return
        response.error = events.ErrorInfo(type="server_error", code="speech_failed", message=hoarse.message)
        self._ask_no_more(response)
        response.held.clear()
        response.message.track.cut(response.message.track.sent)
        self._finish(response, "incomplete")
        self._done(response)

    def pause(self, now: int) -> None:
        self.take(now)
        self.playback.paused = True

    def resume(self, now: int) -> None:
        """It was no interruption."""
        if not self.playback.paused:
            return
        self.take(now)
        self.playback.paused = False
        if self.playback.tracks:
            self._out.put(events.Resumed(item_id=self.playback.tracks[0].item_id))
        while self.active is not None and self.active.held:
            self._speak(self.active, self.active.held.popleft(), now)

    def cancel(self, reason: Reason, now: int) -> None:
        """End the response; what the client was sent of its sound plays on, and what it was sent of a text stays."""
        response = self.active
        if response is None:
            return
        self.take(now)
        self._ask_no_more(response)
        response.held.clear()
        message = response.message
        if message is not None and message.mouth is not None:
            self._out.put(signals.StopSpeaking(message.track.speech))
            if message.track.limit is None:
                message.track.cut(message.track.sent)
        self._finish(response, "incomplete")
        self._done(response, reason)

    def interrupt(self, reason: Reason, now: int) -> None:
        """End the response and whatever still sounds of those before: what was not heard was not said."""
        self.take(now)
        tracks = list(self.playback.tracks)
        self.playback.paused = False
        if tracks:
            self._out.put(events.OutputCleared(response_id=tracks[0].response_id))
        for track in tracks:
            track.cut(track.played)
            self.playback.drop(track)
        self.cancel(reason, now)
        for track in tracks:
            self._out.put(truncated(track))

    def makes(self, track: Track) -> bool:
        """Whether it is of the response in progress."""
        message = self.active.message if self.active else None
        return message is not None and message.track is track

    def take(self, now: int) -> None:
        """Let the client play on, and tell the voice."""
        self.playback.advance(now)
        for speech, samples in self.playback.taken():
            self._out.put(signals.Took(speech, samples))

    def played(self, track: Track, samples: int, now: int) -> None:
        """The client says how much of it was heard."""
        self.playback.acknowledge(track, samples, now)
        self.take(now)

    @property
    def due(self) -> int | None:
        """ns when `check` will have something to do."""
        response = self.active
        if response is None or response.held or (response.reply is None and response.writing):
            return None
        return response.touched + SILENT + self.playback.remaining()

    def check(self, now: int) -> None:
        """Give up on a model or a voice of which nothing is heard any more."""
        if self.due is None or now < self.due or self.active is None or self.active.reply is None:
            return
        if self.active.writing:
            self._out.put(signals.CancelReply(self.active.reply))
            self.failed(signals.NoReply(self.active.reply, "the model fell silent", "reply_timeout"), now)
        elif (speech := self._speech(self.active)) is not None:
            self._out.put(signals.StopSpeaking(speech))
            self.hoarse(signals.Hoarse(speech, "the voice fell silent"))

    def _write(self, response: Response, text: str) -> None:
        message = response.message or self._open(response)
        message.track.text += text
        if message.mouth is None:
            self._out.put(events.TextDelta(**self._at(response, message), delta=text))
            return
        self._out.put(events.AudioTranscriptDelta(**self._at(response, message), delta=text))
        self._out.put(signals.Say(message.track.speech, text))

    def _open(self, response: Response) -> Message:
        """The item of the response's words."""
        aloud = "audio" in response.wanted.modalities
        item_id, index = self._out.name("item"), self._next_index(response)
        track = Track(item_id, response.id, self._out.number() if aloud else 0)
        response.message = Message(item_id, index, track, Mouth(response.wanted.format) if aloud else None)
        empty = items.AssistantMessage(type="message", role="assistant", id=item_id, object="realtime.item",
                                       status="in_progress", content=[])  # fmt: skip
        self._add(response, empty, index, track if aloud else None)
        part = events.Part(type="audio", transcript="") if aloud else events.Part(type="text", text="")
        self._out.put(events.ContentPartAdded(**self._at(response, response.message), part=part))
        if aloud:
            self._out.put(signals.StartSpeaking(track.speech, response.wanted.voice, response.wanted.rate))
        return response.message

    def _call(self, response: Response, called: signals.Called) -> Call:
        index = self._next_index(response)
        call_id = called.call_id  # some models number theirs afresh in each reply
        if not call_id or self._history.knows_call(call_id):
            call_id = self._out.name("call")
        call = Call(self._out.name("item"), index, call_id, called.name)
        response.calls[called.index] = call
        self._add(response, call.item("in_progress"), index, None)
        return call

    def _add(self, response: Response, item: Item, index: int, track: Track | None) -> None:
        response.output.append(item)
        self._out.put(events.OutputItemAdded(response_id=response.id, output_index=index, item=item))
        if response.wanted.remembered:
            before = self._history.add(Entry(item, track))
            self._out.put(events.ItemAdded(previous_item_id=before, item=item))

    def _written(self, response: Response) -> None:
        """The reply is complete, though perhaps not yet spoken."""
        response.writing = False
        for call in response.calls.values():
            self._out.put(
                events.ArgumentsDone(
                    response_id=response.id,
                    output_index=call.index,
                    item_id=call.item_id,
                    call_id=call.call_id,
                    name=call.name,
                    arguments=call.arguments,
                )
            )
            self._close(response, call.item(response.ending), call.index)
            call.done = True
        message = response.message
        if message is not None and message.mouth is not None:
            self._out.put(signals.FinishSpeaking(message.track.speech))
            return
        self._finish(response, response.ending)
        self._done(response)

    def _speak(self, response: Response, spoken: signals.Spoken, now: int) -> None:
        message = response.message
        assert message is not None, "only what was written is spoken"
        assert message.mouth is not None
        message.track.place(spoken.words)
        self.take(now)
        self.playback.push(message.track, len(spoken.pcm), now)
        data = message.mouth.push(spoken.pcm, last=spoken.last)
        if data:
            if "sound" not in response.at:
                response.at["sound"], self.sounded = now, response
            delta = base64.b64encode(data).decode()
            self._out.put(events.AudioDelta(**self._at(response, message), delta=delta))
        if spoken.last:
            message.track.closed = True
            self._finish(response, response.ending)
            self._done(response)

    def _finish(self, response: Response, status: items.Status) -> None:
        """Close what items are still open."""
        for call in response.calls.values():
            if not call.done:
                self._close(response, call.item("incomplete"), call.index)
                call.done = True
        message = response.message
        if message is None or message.done:
            return
        message.done = True
        at, text = self._at(response, message), message.track.heard
        if message.mouth is None:
            self._out.put(events.TextDone(**at, text=text))
            self._out.put(events.ContentPartDone(**at, part=events.Part(type="text", text=text)))
        else:
            self._out.put(events.AudioDone(**at))
            self._out.put(events.AudioTranscriptDone(**at, transcript=text))
            self._out.put(events.ContentPartDone(**at, part=events.Part(type="audio", transcript=text)))
        self._close(response, self._message_item(message, status), message.index)

    def _close(self, response: Response, item: Item, index: int) -> None:
        response.output[index] = item
        self._out.put(events.OutputItemDone(response_id=response.id, output_index=index, item=item))
        if response.wanted.remembered:
            before = self._history.replace(item)
            self._out.put(events.ItemDone(previous_item_id=before, item=item))

    def _done(self, response: Response, reason: Reason | None = None) -> None:
        status: Literal["completed", "cancelled", "incomplete", "failed"] = "completed"
        why: str | None = reason
        if reason is not None:
            status = "cancelled"
        elif response.error is not None:
            status = "failed"
        elif response.cut:
            status, why = "incomplete", "max_output_tokens"
        details = events.StatusDetails.model_validate({"type": status, "reason": why, "error": response.error})
        described = self._described(response, status)
        used = response.usage
        described.usage = events.TokenUsage(input_tokens=used.prompt, output_tokens=used.reply,
                                            total_tokens=used.prompt + used.reply)  # fmt: skip
        described.status_details = details if status != "completed" else None
        self.active = None
        self._out.put(events.ResponseDone(response=described))

    def _ask_no_more(self, response: Response) -> None:
        if response.writing and response.reply is not None:
            self._out.put(signals.CancelReply(response.reply))
        response.writing = False

    def _described(self, response: Response, status: str) -> events.Response:
        wanted = response.wanted
        audio = {"output": {"format": wanted.format.model_dump(), "voice": wanted.voice}}
        return events.Response.model_validate({
            "id": response.id, "status": status, "output": list(response.output), "audio": audio,
            "conversation_id": self.conversation_id if wanted.remembered else None,
            "output_modalities": wanted.modalities, "max_output_tokens": wanted.max_tokens,
            "metadata": wanted.metadata,
        })  # fmt: skip

    def _message_item(self, message: Message, status: items.Status) -> items.AssistantMessage:
        text = message.track.heard
        part = items.OutputText(type="output_text", text=text) if message.mouth is None else items.OutputAudio(
            type="output_audio", transcript=text)  # fmt: skip
        return items.AssistantMessage(type="message", role="assistant", id=message.item_id, object="realtime.item",
                                      status=status, content=[part])  # fmt: skip

    def _at(self, response: Response, message: Message) -> events.Place:
        return {"response_id": response.id, "output_index": message.index, "item_id": message.item_id}

    def _next_index(self, response: Response) -> int:
        return len(response.output)

    def _writing(self, reply: int) -> Response | None:
        response = self.active
        return response if response is not None and response.reply == reply and response.writing else None

    def _speech(self, response: Response) -> int | None:
        message = response.message
        return message.track.speech if message is not None and message.mouth is not None else None


def truncated(track: Track) -> events.ItemTruncated:
    ms = (track.limit or 0) * 1000 // signals.SPEAKING_RATE
    return events.ItemTruncated(item_id=track.item_id, content_index=0, audio_end_ms=ms)
