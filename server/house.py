"""The house: the rooms of one server and what they share, started and stopped together.

`recipes.serve` builds it from what was asked for; the endpoints and the realtime sessions use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.punctuate import Writer
from vivavoce.speech.vad import Vad

from .metrics import Metrics
from .replies import EndpointReplies, Replies
from .rooms.hearing import HearingRoom
from .rooms.room import Room, Turns
from .rooms.speaking import SpeakingRoom, Synthesizer
from .rooms.voice import VoiceRoom

HEARS = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-latest", "gpt-realtime-whisper")
SPEAKS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
TALKS = ("gpt-realtime", "gpt-realtime-mini", "gpt-4o-realtime-preview", "gpt-4o-mini-realtime-preview")


@dataclass
class House:
    """hearing: live sessions; voice: who is speaking in them; files: uploads, on the same weights and a thread of their
    own, so that they do not hold up who is speaking; speaking: none without a voice; replies: who answers, if anybody.
    model, speaker: names of the recogniser and the voice. requests: those of the API under way (see `visits`)."""

    model: str
    hearing: HearingRoom
    voice: VoiceRoom
    files: HearingRoom
    speaking: SpeakingRoom | None = None
    speaker: str = ""
    replies: Replies | None = None
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    requests: set[asyncio.Task[Any]] = field(default_factory=set)

    @classmethod
    def build(
        cls,
        model: str,
        recognizer: Callable[[int], Recognizer],
        vad: Vad,
        *,
        places: int,
        uploads: int = 2,
        batch: int | None = None,
        writer: Writer | None = None,
        synthesizer: Synthesizer | None = None,
        voices: int = 1,
        speaker: str = "",
        replies: Replies | None = None,
    ) -> Self:
        """recognizer: makes one of so many slots; places: live sessions at once; uploads: files at once; batch,
        writer: see `HearingRoom`; voices: the synthesizer's slots. Raises BadCheckpoint for a model that cannot stream.
        """
        metrics, turns = Metrics(), Turns()
        spare = max(1, places // 4)  # slots for streams that are being finished
        house = cls(
            model,
            HearingRoom(recognizer(places + spare), places, batch=batch, writer=writer, observe=metrics.step,
                        turns=turns),
            VoiceRoom(vad, places, observe=metrics.step, turns=turns),
            HearingRoom(recognizer(uploads), name="files", writer=writer, observe=metrics.step),
            SpeakingRoom(synthesizer, voices, observe=metrics.step) if synthesizer else None,
            speaker,
            replies,
            metrics,
        )
        for room in house.rooms:
            metrics.watch(room)
        return house

    @property
    def rooms(self) -> list[Room]:
        others = [room for room in (self.speaking, self.replies) if isinstance(room, Room)]
        return [self.hearing, self.voice, self.files, *others]

    def names(self) -> dict[str, tuple[str, ...]]:
        """The models there are, and the names of others' under which clients may ask for them."""
        there: dict[str, tuple[str, ...]] = {self.model: HEARS}
        if self.speaking:
            there[self.speaker] = (*SPEAKS, *TALKS)
        return there

    def knows(self, name: str) -> bool:
        return any(name == own or name in others for own, others in self.names().items())

    @property
    def hears(self) -> tuple[str, ...]:
        """The names of what can transcribe."""
        return (self.model, *HEARS)

    @property
    def speaks(self) -> tuple[str, ...]:
        """The names of what can say a text."""
        return (self.speaker, *SPEAKS) if self.speaking else ()

    async def finish(self, seconds: float) -> None:
        """Take no more requests, and wait so long for those inside to be answered; then end them."""
        self.draining = True
        if self.requests:
            _, late = await asyncio.wait(self.requests, timeout=seconds)
            for request in late:
                request.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Its threads run while this is entered."""
        for room in self.rooms:
            room.start()
        try:
            yield
        finally:
            for room in self.rooms:
                room.stop()
            if isinstance(self.replies, EndpointReplies):
                await self.replies.aclose()
