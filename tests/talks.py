"""A session for tests of the server's core: a conversation whose rooms and clock are played by hand."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
from openai.types.realtime import realtime_server_event
from pydantic import BaseModel

from vivavoce.server import signals
from vivavoce.server.conversation import Conversation
from vivavoce.server.events import ServerEvent
from vivavoce.server.outbox import Output
from vivavoce.server.protocol import Protocol
from vivavoce.speech.asr.words import Word
from vivavoce.speech.turn import SpeechEnded, SpeechStarted, TurnEvent

MS = 1_000_000  # ns

# OpenAI's own models of what a server sends, by type
THEIRS: dict[str, type[BaseModel]] = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(realtime_server_event.RealtimeServerEvent)[0])
}


class Talk:
    """What came out: `events` as a client reads them, `actions` as the rooms get them. `now`: ns."""

    def __init__(self, kind: Any = "realtime", **options: Any) -> None:
        self.conversation = Conversation("sess_test", kind=kind, **options)
        self.protocol, self.now = Protocol(), 1_000 * MS
        self.events: list[dict[str, Any]] = []
        self.actions: list[signals.Action] = []
        self._take(self.conversation.begin(self.now))

    def send(self, type: str, **fields: Any) -> list[dict[str, Any]]:
        """A client's event; gives the answers."""
        return self.frame(json.dumps({"type": type, **fields}))

    def frame(self, frame: str | bytes) -> list[dict[str, Any]]:
        return self._take(self.conversation.step(self.protocol.receive(frame), self.now))

    def room(self, input: signals.Input) -> list[dict[str, Any]]:
        return self._take(self.conversation.step(input, self.now))

    def wait(self, ms: int) -> list[dict[str, Any]]:
        """Time passes, with a tick whenever one is due."""
        end, out, ticks = self.now + ms * MS, [], 0
        while (wake := self.conversation.wake_at) is not None and wake <= end:
            self.now = max(self.now, wake)
            out += self._take(self.conversation.tick(self.now))
            ticks += 1
            assert ticks < 5 + ms, "it asks to be woken again and again"
        self.now = end
        return out + self._take(self.conversation.tick(self.now))

    def audio(self, ms: int) -> None:
        """So much of it at 24 kHz, as it is captured."""
        self.now += ms * MS
        self.frame(bytes(48 * ms))

    def voice(self, *events: TurnEvent) -> list[dict[str, Any]]:
        """The voice room has seen all audio there is."""
        at = self._heard_by_watch
        return self.room(signals.Voiced(self.last(signals.StartWatching).watch, at, events))

    def starts(self) -> list[dict[str, Any]]:
        """The user begins to speak."""
        self.audio(200)
        return self.voice(SpeechStarted(self._heard_by_watch - 3200))

    def stops(self) -> list[dict[str, Any]]:
        """The user is silent for half a second."""
        self.audio(500)
        at = self._heard_by_watch
        return self.voice(SpeechEnded(at - 8000, at, "silence"))

    def hears(self, text: str = "", tail: str = "", *, last: bool = False, confidence: float = 0.9) -> Any:
        """The recogniser on the newest stream."""
        words = tuple(Word(w, 1600 * i, 1600 * i + 1600, confidence) for i, w in enumerate(text.split()))
        stream = self.last(signals.StartHearing).stream
        return self.room(signals.Heard(stream, 3200, words, tail, last))

    def turn(self, text: str) -> list[dict[str, Any]]:
        """A whole turn of the user."""
        return [*self.starts(), *self.hears(text), *self.stops(), *self.hears(last=True)]

    def says(self, text: str) -> list[dict[str, Any]]:
        """The model, of the newest reply."""
        return self.room(signals.Said(self.last(signals.StartReply).reply, text))

    def done(self, reason: Any = "end") -> list[dict[str, Any]]:
        return self.room(signals.Replied(self.last(signals.StartReply).reply, reason, signals.Usage(5, 7)))

    def speaks(self, ms: int, *words: tuple[str, int, int], last: bool = False) -> list[dict[str, Any]]:
        """The voice, of the newest speech; words with their ms."""
        spoken = tuple(signals.SpokenWord(w, 24 * start, 24 * end) for w, start, end in words)
        speech = self.last(signals.StartSpeaking).speech
        return self.room(signals.Spoken(speech, np.zeros(24 * ms, np.float32), spoken, last))

    def answer(self, text: str = "one two three four", ms: int = 4000) -> list[dict[str, Any]]:
        """A whole reply, spoken at an even pace."""
        words = text.split()
        each = ms // len(words)
        times = [(w, i * each, (i + 1) * each) for i, w in enumerate(words)]
        return [*self.says(text), *self.done(), *self.speaks(ms, *times, last=True)]

    def last(self, kind: type[Any]) -> Any:
        return next(a for a in reversed(self.actions) if isinstance(a, kind))

    def all(self, kind: type[Any]) -> list[Any]:
        return [a for a in self.actions if isinstance(a, kind)]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def event(self, type: str) -> dict[str, Any]:
        """The newest of this type."""
        return next(event for event in reversed(self.events) if event["type"] == type)

    @property
    def _heard_by_watch(self) -> int:
        return self.conversation.listener.total

    def _take(self, outputs: Any) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        output: Output
        for output in outputs:
            if isinstance(output, ServerEvent):
                sent.append(json.loads(self.protocol.send(output)))
            else:
                self.actions.append(output)
        for event in sent:
            as_theirs(event)
        self.events += sent
        return sent


def as_theirs(event: dict[str, Any]) -> BaseModel | None:
    """The event as OpenAI's client reads it; None for those that only this server has."""
    if event["type"].startswith("vivavoce.") or '"rate": 16000' in json.dumps(event):
        return None
    theirs = THEIRS[event["type"]].model_validate(event)
    assert theirs.event_id  # type: ignore[attr-defined]
    return theirs


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]
