"""The shell of one realtime session: its conversation, its place in the rooms, and what waits to be sent.

Client events come in from a socket (`realtime`), results from the rooms; both step the conversation, whose actions go
to the rooms and whose events go into `outgoing`. It lives on the event loop and outlives a socket that was lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import MutableMapping, Sequence
from functools import partial
from typing import Any

from vivavoce.streaming.errors import VivaVoceError

from . import signals as s
from .bridge import on_loop
from .conversation import Conversation
from .events import Error, ErrorInfo, Refused, ServerEvent
from .house import House
from .outgoing import Outgoing
from .protocol import Protocol
from .requests import ClientEvent
from .rooms import hearing, speaking, voice

log = logging.getLogger(__name__)

AHEAD = 30.0  # seconds of audio that may wait for the rooms before the socket is not read any further


class NoVoice(VivaVoceError):
    """Speech is wanted of a server without a voice."""


class Shell:
    """Take a place first (`house.hearing.enter()`); `end` gives it back, once."""

    def __init__(self, house: House, conversation: Conversation, protocol: Protocol) -> None:
        self.house, self.conversation, self.protocol = house, conversation, protocol
        self.outgoing = Outgoing()
        self.ended = False
        self._thinking = house.replies.open(on_loop(self.feed)) if house.replies else None
        self._streams: dict[int, hearing.Hearing] = {}
        self._watches: dict[int, voice.Watching] = {}
        self._speeches: dict[int, speaking.Speaking] = {}
        self._unheard: dict[int, int] = {}  # samples that a stream or a watch has waiting in its room
        self._heard = asyncio.Event()
        self._inputs: list[ClientEvent | Refused | s.Input] = []
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._carry_out(self.conversation.begin(now()))

    def greet(self) -> None:
        """A new socket: say again which session this is, before what still waits to be sent."""
        self._carry_out(self.conversation.greet(now()), first=True)

    def receive(self, frame: str | bytes) -> None:
        """A frame from the client."""
        self.feed(self.protocol.receive(frame))

    def feed(self, what: ClientEvent | Refused | s.Input) -> None:
        """What comes in while an earlier one is carried out waits for its turn."""
        if self.ended:
            return
        self._inputs.append(what)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inputs:
                self._step(self._inputs.pop(0))
        finally:
            self._busy = False

    def _step(self, what: ClientEvent | Refused | s.Input) -> None:
        """A mistake of ours costs what was asked, not the session."""
        try:
            self._carry_out(self.conversation.step(what, now()))
        except Exception:
            log.exception("a conversation failed on a %s", type(what).__name__)
            info = ErrorInfo(type="server_error", code="internal_error", message="the server made a mistake; go on")
            self._send(Error(event_id="event_0", error=info), first=False)

    async def ready(self) -> None:
        """Until the next frame may be read: the rooms have little of this session waiting, and so has the client."""
        limit = round(AHEAD * s.HEARING_RATE)
        while sum(self._unheard.values()) > limit and not self.ended:
            self._heard.clear()
            await self._heard.wait()
        await self.outgoing.space()

    def end(self) -> None:
        """Let go of everything; twice is once."""
        if self.ended:
            return
        self._carry_out(self.conversation.end(now()))
        self.ended = True
        inside: list[hearing.Hearing | voice.Watching | speaking.Speaking] = [
            *self._streams.values(), *self._watches.values(), *self._speeches.values()]
        for one in inside:
            one.close()
        if self._thinking:
            self._thinking.close()
        if self._timer:
            self._timer.cancel()
        self.house.hearing.leave()
        self._heard.set()
        self.outgoing.close()

    def _tick(self) -> None:
        self._timer = None
        if not self.ended:
            self._carry_out(self.conversation.tick(now()))

    def _carry_out(self, outputs: Sequence[ServerEvent | s.Action], first: bool = False) -> None:
        for output in outputs:
            if isinstance(output, ServerEvent):
                self._send(output, first)
            else:
                self._act(output)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if (wake := self.conversation.wake_at) is not None and not self.ended:
            self._timer = asyncio.get_running_loop().call_at(wake / 1e9, self._tick)

    def _send(self, event: ServerEvent, first: bool) -> None:
        if event.type == "error":
            self.house.metrics.errors.labels(getattr(event, "error").code or "none").inc()  # noqa: B009
        self.outgoing.put(self.protocol.send(event), first=first)

    def _act(self, action: s.Action) -> None:
        """What is meant for a stream, watch or speech that has failed meanwhile goes nowhere."""
        match action:
            case s.StartHearing() | s.SetLookahead() | s.Hear() | s.FinishHearing() | s.CloseHearing():
                self._hear(action)
            case s.StartWatching() | s.ConfigureWatching() | s.Watch() | s.TextChanged() | s.StopWatching():
                self._watch(action)
            case s.StartSpeaking() | s.Say() | s.FinishSpeaking() | s.Took() | s.StopSpeaking():
                self._speak(action)
            case s.Close(reason):
                self.outgoing.close(reason)
            case s.Prefill(prompt):
                if self._thinking:
                    self._thinking.prefill(prompt)
            case s.CancelReply(reply):
                if self._thinking:
                    self._thinking.cancel(reply)
            case s.StartReply(reply, prompt):
                if self._thinking:
                    self._thinking.start(reply, prompt)
                else:
                    self.feed(s.NoReply(reply, "this server has nobody who replies; start it with --llm"))

    def _hear(self, action: s.StartHearing | s.SetLookahead | s.Hear | s.FinishHearing | s.CloseHearing) -> None:
        number = action.stream
        if isinstance(action, s.StartHearing):
            sink = on_loop(partial(self._from_hearing, number))
            self._streams[number] = self.house.hearing.open(sink, lookahead=action.lookahead)
        if (stream := self._streams.get(number)) is None:
            return
        match action:
            case s.Hear(pcm=pcm):
                self._unheard[number] = self._unheard.get(number, 0) + len(pcm)
                stream.push(pcm)
            case s.SetLookahead(lookahead=lookahead):
                stream.set_lookahead(lookahead)
            case s.FinishHearing():
                stream.finish()
            case s.CloseHearing():
                self._over(self._streams, number)

    def _watch(self, action: s.StartWatching | s.ConfigureWatching | s.Watch | s.TextChanged | s.StopWatching) -> None:
        number = action.watch
        if isinstance(action, s.StartWatching):
            sink = on_loop(partial(self._from_voice, number))
            self._watches[number] = self.house.voice.open(sink, action.config)
        if (watch := self._watches.get(number)) is None:
            return
        match action:
            case s.Watch(pcm=pcm):
                self._unheard[number] = self._unheard.get(number, 0) + len(pcm)
                watch.push(pcm)
            case s.ConfigureWatching(config=config):
                watch.configure(config)
            case s.TextChanged(at_sample=at_sample):
                watch.changed(at_sample)
            case s.StopWatching():
                self._over(self._watches, number)

    def _speak(self, action: s.StartSpeaking | s.Say | s.FinishSpeaking | s.Took | s.StopSpeaking) -> None:
        number = action.speech
        if isinstance(action, s.StartSpeaking):
            try:
                if self.house.speaking is None:
                    raise NoVoice("this server has no voice; start it with --voice")
                sink = on_loop(partial(self._from_speaking, number))
                self._speeches[number] = self.house.speaking.open(sink, rate=action.rate)
            except VivaVoceError as e:
                self.feed(s.Hoarse(number, str(e)))
        if (speech := self._speeches.get(number)) is None:
            return
        match action:
            case s.Say(text=text):
                speech.say(text)
            case s.FinishSpeaking():
                speech.finish()
            case s.Took(samples=samples):
                speech.took(samples)
            case s.StopSpeaking():
                self._over(self._speeches, number)

    def _from_hearing(self, stream: int, event: hearing.Heard | hearing.Deaf) -> None:
        if isinstance(event, hearing.Deaf):
            self._over(self._streams, stream)
            self.feed(s.Deaf(stream, str(event.error)))
            return
        self._less(stream, event.taken)
        self.house.metrics.audio_in.inc(event.taken / s.HEARING_RATE)
        self.house.metrics.delay.observe(event.lag)
        if event.last:
            self._over(self._streams, stream)
        self.feed(s.Heard(stream, event.at_sample, event.words, event.tail, event.last, event.lag))

    def _from_voice(self, watch: int, event: voice.Voice | voice.Mute) -> None:
        if isinstance(event, voice.Mute):
            self._over(self._watches, watch)
            self.feed(s.Unwatched(watch, str(event.error)))
            return
        self._less(watch, event.taken)
        self.feed(s.Voiced(watch, event.at_sample, event.events, event.certain))

    def _from_speaking(self, speech: int, event: speaking.Spoken | speaking.Hoarse) -> None:
        if isinstance(event, speaking.Hoarse):
            self._over(self._speeches, speech)
            self.feed(s.Hoarse(speech, str(event.error)))
            return
        if event.last:
            self._over(self._speeches, speech)
        self.house.metrics.audio_out.inc(len(event.pcm) / s.SPEAKING_RATE)
        words = tuple(s.SpokenWord(w.word, w.start_sample, w.end_sample) for w in event.words)
        self.feed(s.Spoken(speech, event.pcm, words, event.last))

    def _over(self, inside: MutableMapping[int, Any], number: int) -> None:
        """Forget a stream, watch or speech, and let its room forget it."""
        if (gone := inside.pop(number, None)) is not None:
            gone.close()
        self._less(number, self._unheard.get(number, 0))
        self._unheard.pop(number, None)

    def _less(self, number: int, samples: int) -> None:
        """So much less waits in a room."""
        if number in self._unheard:
            self._unheard[number] -= samples
        self._heard.set()


def now() -> int:
    """The conversation's clock, which is the event loop's."""
    return time.monotonic_ns()
