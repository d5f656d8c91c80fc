"""The state machine of a realtime session: client events and what the rooms found out go in, time is passed in; server
events and actions for the rooms come out. See `signals` for both; no sockets, no threads, no clock of its own.

    conversation = Conversation("sess_1", kind="realtime", model="small-en", resume_token="...")
    outputs = conversation.begin(now)       # now: integer nanoseconds of any monotonic clock
    outputs = conversation.step(input, now) # requests.ClientEvent | events.Refused | signals.Input
    outputs = conversation.tick(now)        # due at conversation.wake_at (ns, or None) at the latest
    outputs = conversation.greet(now)       # after a reconnect: session.created again, with the same id
    outputs = conversation.end(now)         # closes every stream, watch, reply and speech

An output is either an `events.ServerEvent` (send `protocol.send(it)`) or a `signals.Action`. The user's side is in
`listening`, the agent's in `responding`; here they meet: who has the floor.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Literal

from . import events, items, requests, signals
from .floor import Floor
from .history import Entry, History
from .items import Item
from .listening import Listener
from .outbox import Outbox, Output, Problem
from .requests import ClientEvent, ResponseParams
from .responding import Responder, truncated
from .settings import RealtimeSettings, TranscriptionSettings, updated

GONE = 15 * 60_000_000_000  # ns after which a session of whose client nothing is heard ends
PROMPT = 24_000  # characters of history in a prompt


class Conversation:
    """session_id: unique; kind: what the session is until the client says otherwise; model: a name to show;
    limits: for `rate_limits.updated`; prompt_chars: the most history in a prompt; gone: ns without a sign of the client
    after which the session ends."""

    def __init__(
        self,
        session_id: str,
        *,
        kind: Literal["realtime", "transcription"] = "realtime",
        model: str = "vivavoce",
        resume_token: str | None = None,
        limits: Callable[[], Sequence[events.RateLimit]] = tuple,
        prompt_chars: int = PROMPT,
        gone: int = GONE,
    ) -> None:
        self.session_id, self._model, self._token, self._gone = session_id, model, resume_token, gone
        realtime = RealtimeSettings()
        self.settings: RealtimeSettings | TranscriptionSettings = (
            realtime if kind == "realtime" else TranscriptionSettings()
        )
        self._out = Outbox(session_id.removeprefix("sess_")[-12:])
        self.history = History()
        self.listener = Listener(self._out, realtime.audio.input.format)
        self.responder = Responder(self._out, self.history, limits)
        self.floor = Floor(self._out, self.history, self.listener, self.responder, prompt_chars)
        self._sign = 0  # ns when the client was last heard of
        self._over = False

    @property
    def backlog(self) -> int:
        """Samples at 16 kHz that wait for the voice room; while it is more than some seconds, read no more."""
        return self.listener.backlog

    def begin(self, now: int) -> Sequence[Output]:
        self._sign = now
        self._configure(now)
        return self.greet(now)

    def greet(self, now: int) -> Sequence[Output]:
        self._sign = now
        self._out.put(events.SessionCreated(session=self._described()))
        return self._out.take()

    def step(self, input: ClientEvent | events.Refused | signals.Input, now: int) -> Sequence[Output]:
        """Never raises; what is wrong with a client's event is answered with `error`."""
        if self._over:
            return []
        if isinstance(input, events.Refused):
            self._sign = now
            self._out.put(events.Error(error=input.error))
        elif isinstance(input, signals.Input):
            self._from_room(input, now)
        else:
            self._sign = now
            try:
                self._from_client(input, now)
            except Problem as problem:
                self._out.refuse(problem, input.event_id)
        self.floor.settle(now)
        return self._out.take()

    def tick(self, now: int) -> Sequence[Output]:
        """Let time pass."""
        if self._over:
            return []
        self.responder.take(now)
        self.responder.check(now)
        self.floor.note(self.listener.check(now), now)
        self.floor.check(now)
        if now - self._sign >= self._gone:
            self._out.refuse(Problem("session_idle", "nothing came from the client for a long time; connect again"))
            self._out.put(signals.Close("idle"))
            self._leave(now)
        return self._out.take()

    def end(self, now: int) -> Sequence[Output]:
        """The client is gone for good."""
        if not self._over:
            self._leave(now)
        return [output for output in self._out.take() if not isinstance(output, events.ServerEvent)]

    @property
    def wake_at(self) -> int | None:
        """ns when `tick` will have something to do; None when the session is over."""
        if self._over:
            return None
        times = [self.listener.due, self.responder.due, self.floor.due, self._sign + self._gone]
        return min(time for time in times if time is not None)

    # What comes in

    def _from_client(self, event: ClientEvent, now: int) -> None:
        match event:
            case requests.InputAudioBufferAppend():
                self.floor.note(self.listener.append(event.audio), now)
            case requests.InputAudioBufferCommit():
                self.floor.note(self.listener.commit(event.event_id, now), now)
            case requests.InputAudioBufferClear():
                self.listener.clear()
                self.floor.relent(now)
            case requests.SessionUpdate():
                self._update(event.session, now)
                self._out.put(events.SessionUpdated(session=self._described()))
            case requests.ItemCreate():
                self._create_item(event, now)
            case requests.ItemRetrieve():
                self._out.put(events.ItemRetrieved(item=self.history.get(event.item_id).shown()))
            case requests.ItemDelete():
                self._delete_item(event.item_id)
            case requests.ItemTruncate():
                self._truncate(event, now)
            case requests.Played():
                self._played(event, now)
            case requests.ResponseCreate():
                self.floor.respond(event.response or ResponseParams(), now)
            case requests.ResponseCancel():
                self._cancel(event.response_id, now)
            case requests.OutputAudioBufferClear():
                self.floor.interrupt("client_cancelled", now)

    def _from_room(self, input: signals.Input, now: int) -> None:
        match input:
            case signals.Voiced():
                self.floor.note(self.listener.voiced(input, now), now)
            case signals.Unwatched():
                self.floor.note(self.listener.unwatched(input, now), now)
            case signals.Heard():
                self.floor.note(self.listener.heard(input), now)
                self.floor.note(self.listener.check(now), now)
            case signals.Deaf():
                self.floor.note(self.listener.deaf(input), now)
            case signals.Said():
                self.responder.said(input, now)
            case signals.Called():
                self.responder.called(input, now)
            case signals.Replied():
                self.responder.replied(input, now)
            case signals.NoReply():
                self.responder.failed(input, now)
            case signals.Spoken():
                self.responder.spoken(input, now)
            case signals.Hoarse():
                self.responder.hoarse(input)

    # The client's wishes

    def _update(self, session: RealtimeSettings | TranscriptionSettings, now: int) -> None:
        if session.type == self.settings.type:
            self.settings = updated(self.settings, session)
        elif self.responder.audible or len(self.history) or self.listener.open:
            raise Problem("session_type", f"this session is of type {self.settings.type!r} and under way; "
                          "connect again for another", "session.type")  # fmt: skip
        else:
            self.settings = session
        self._configure(now)

    def _configure(self, now: int) -> None:
        self.floor.settings = self.settings
        logprobs = "item.input_audio_transcription.logprobs" in (self.settings.include or ())
        self.floor.note(self.listener.configure(self.settings.audio.input, self.settings.vivavoce, logprobs, now), now)

    def _described(self) -> dict[str, Any]:
        settings = self.settings.model_dump(mode="json")
        settings["vivavoce"]["resume_token"] = self._token
        if self.settings.type == "realtime":
            settings["model"] = settings["model"] or self._model
        kind = "realtime.session" if self.settings.type == "realtime" else "realtime.transcription_session"
        return {"id": self.session_id, "object": kind} | settings

    def _create_item(self, event: requests.ItemCreate, now: int) -> None:
        item = event.item.model_copy(update={"object": "realtime.item", "status": "completed"})
        if item.id is None:
            item.id = self._out.name("item")
        elif self._out.owns(item.id):
            raise Problem("item_exists", f"{item.id!r} is a name that this session gives; choose another", "item.id")
        sounds = _sounds(item)
        before = self.history.add(Entry(item), event.previous_item_id)
        if sounds:
            try:
                self.listener.transcribe(item.id, sounds, now)
            except Problem:
                self.history.delete(item.id)
                raise
        self._out.put(events.ItemAdded(previous_item_id=before, item=item))
        self._out.put(events.ItemDone(previous_item_id=before, item=item))

    def _delete_item(self, item_id: str) -> None:
        if self.history.get(item_id).item.status == "in_progress":
            raise Problem("item_in_progress", "the item is still being made; cancel its response first", "item_id")
        self.history.delete(item_id)
        self._out.put(events.ItemDeleted(item_id=item_id))

    def _truncate(self, event: requests.ItemTruncate, now: int) -> None:
        """The client has played so much of an item and will play no more of it."""
        track = self.history.get(event.item_id).track
        samples = event.audio_end_ms * signals.SPEAKING_RATE // 1000
        if track is None or event.content_index:
            raise Problem(
                "invalid_value", "only what was spoken can be truncated; give an assistant's audio", "item_id"
            )
        if samples > track.sent:
            raise Problem("invalid_value", f"the item has only {track.sent * 1000 // signals.SPEAKING_RATE} ms of "
                          "audio", "audio_end_ms")  # fmt: skip
        live = track in self.responder.playback.tracks or self.responder.makes(track)
        if live:
            self.responder.playback.acknowledge(track, samples, now)
            self.floor.interrupt("turn_detected" if self.floor.barge else "client_cancelled", now)
        if not live or track.limit != samples:
            track.cut(samples)
            self._out.put(truncated(track))

    def _played(self, event: requests.Played, now: int) -> None:
        track = self.history.get(event.item_id).track
        if track is not None and track.limit is None:
            self.responder.played(track, event.audio_end_ms * signals.SPEAKING_RATE // 1000, now)

    def _leave(self, now: int) -> None:
        self._over = True
        self.listener.close()
        self.responder.cancel("client_cancelled", now)

    def _cancel(self, response_id: str | None, now: int) -> None:
        active = self.responder.active
        if active is None or response_id not in (None, active.id):
            raise Problem("response_cancel_not_active", "there is no such response in progress", "response_id")
        self.responder.cancel("client_cancelled", now)


def _sounds(item: Item) -> bytes:
    """The audio in a message that is still to be heard; the item keeps none of it. Raises Problem."""
    if not isinstance(item, items.UserMessage):
        return b""
    sounds = item.sounds
    bare = [part.model_copy(update={"audio": None}) if isinstance(part, items.InputAudio) else part
            for part in item.content]  # fmt: skip
    item.content = bare
    try:
        return b"".join(base64.b64decode(sound, validate=True) for sound in sounds)
    except (binascii.Error, ValueError) as e:
        raise Problem("invalid_base64", f"the audio is not base64: {e}", "item.content") from e
