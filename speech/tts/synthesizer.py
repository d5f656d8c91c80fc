"""The synthesizer: text in as it is written, PCM and the times of its words out, many sessions on one voice.

Text becomes phrases (`phrases`), a phrase is planned at once (`script`, `Voice.plan`), and its frames go through the
voice's flow and vocoder in chunks, all sessions in one batch. The first chunks are small, so that sound leaves early;
later ones grow, so that a step does more. How text is cut into pushes, when they come and who else speaks
changes nothing: offline is `step` until it is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from vivavoce.speech.errors import BadConfig
from vivavoce.streaming.chain import Chain, ChainState
from vivavoce.streaming.engine import Engine, Slot
from vivavoce.streaming.errors import UnknownSlot

from .flow import MOST_STEPS
from .phones import encode
from .phrases import Phrase, Splitter
from .script import script
from .ssml import FASTEST, SLOWEST, Reader
from .voice import fresh

# Of a phrase's first chunks and then of all its others, in chunks of the flow (100 ms): the first leaves early, for the
# phrase may have been waited for, and each lasts until the next is made, for some sessions at once on a CPU as well.
CHUNKS = (2, 2, 4, 8)


class Plan(Protocol):
    """frames: (T, width), what the flow starts from; durations: of each symbol planned, in frames; their sum is T."""

    @property
    def frames(self) -> Tensor: ...
    @property
    def durations(self) -> Sequence[int]: ...


class Voice(Protocol):
    """What a synthesizer needs of a voice: what `voice.Voice` and `token_voice.TokenVoice` have.

    plan: phones of a phrase to frames; timed: whether its durations say which frames are whose, so that a phrase can be
    planned with its neighbours and cut out; pause: silence of so many frames; stage: from frames to PCM,
    `frame_samples` a frame, in so many solver steps.
    """

    @property
    def sample_rate(self) -> int: ...
    @property
    def frame_samples(self) -> int: ...
    @property
    def timed(self) -> bool: ...
    def plan(self, phones: Sequence[int], *, rate: float = 1.0) -> Plan: ...
    def pause(self, frames: int) -> Plan: ...
    def stage(self, *, steps: int) -> Chain: ...


@dataclass(frozen=True)
class SpokenWord:
    """A word as it stands in the text, with its punctuation (or several read as one: "May 2nd, 1999,"), and where in
    the session's sound it is."""

    word: str
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class Speech:
    """What one step made for one session. pcm: (n,) float32; words: those that begin in it; done: nothing follows;
    error: what could not be said, which ends this session and no other."""

    pcm: Tensor
    words: tuple[SpokenWord, ...]
    done: bool
    error: Exception | None = None


@dataclass(frozen=True)
class Spoken:
    """A whole text: pcm (n,) float32 at sample_rate."""

    pcm: Tensor
    words: tuple[SpokenWord, ...]
    sample_rate: int


@dataclass
class _Session:
    """What is between a session's text and its engine. frames: (n, width), planned and not yet fed; planned, fed,
    spoken: how many in all were planned, were given to the engine, and have been through the flow; chunks: where in
    CHUNKS it is; made: samples given out."""

    rate: float
    frames: Tensor
    reader: Reader = field(default_factory=Reader)
    splitter: Splitter = field(default_factory=Splitter)
    phrases: deque[Phrase] = field(default_factory=deque)
    words: deque[SpokenWord] = field(default_factory=deque)
    planned: int = 0
    fed: int = 0
    spoken: int = 0
    chunks: int = 0
    made: int = 0
    finished: bool = False  # no more text
    done: bool = False


class Synthesizer:
    """Many sessions on one voice. Not thread-safe: one thread steps it.

    voice: what `voice.Voice.load` returns; slots: sessions at once; steps: of the flow's solver (1 is
    best with the voice that ships).
    """

    def __init__(self, voice: Voice, *, slots: int = 1, steps: int = 1) -> None:
        """Raises BadConfig for steps outside 1 to 10."""
        if not 1 <= steps <= MOST_STEPS:
            raise BadConfig(f"{steps} solver steps: give 1 to {MOST_STEPS}")
        self.voice, self.steps = voice, steps
        self.sample_rate = voice.sample_rate
        self._chain = voice.stage(steps=steps)
        self._chunk = max(stage.spec.chunk for stage in self._chain.stages)  # frames of the smallest chunk
        self._ahead: int = getattr(self._chain.stages[0], "ahead", 0)  # frames it holds back to look at
        self._engine: Engine[ChainState] = Engine(self._chain, slots, max_lookahead=self._chain.max_lookahead)
        self._sessions: dict[Slot, _Session] = {}

    @property
    def free(self) -> int:
        """How many more sessions fit."""
        return self._engine.free

    def open(self, *, rate: float = 1.0, seed: int = 0) -> Slot:
        """Start a session. rate: 1 is the voice's own, up to half and double; seed: of its random numbers.

        Raises Full, BadConfig for another rate.
        """
        if not SLOWEST <= rate <= FASTEST:
            raise BadConfig(f"rate {rate:g} is outside {SLOWEST:g} to {FASTEST:g}")
        slot = self._engine.open(snapshot=fresh(self._chain, seed=seed))
        self._sessions[slot] = _Session(rate, self._chain.like.new_zeros(0, *self._chain.item_shapes[0]))
        return slot

    def push(self, slot: Slot, text: str) -> None:
        """More text, in any pieces. Raises UnknownSlot, and BadSpeech for wrong SSML, after which the session can only
        be closed."""
        session = self._writing(slot)
        self._split(session, text, last=False)

    def finish(self, slot: Slot) -> None:
        """The text is complete. Raises as `push`."""
        session = self._writing(slot)
        session.finished = True
        self._split(session, "", last=True)

    def step(self) -> dict[Slot, Speech]:
        """One batched step of every session that has something to say; {} when there is none.

        A session's last Speech is `done`; close it then. Work is bounded: a phrase or two planned, one chunk spoken.
        """
        feeds: dict[Slot, Tensor] = {}
        final: list[Slot] = []
        out: dict[Slot, Speech] = {}
        for slot, session in self._sessions.items():
            if session.done:
                continue
            try:
                chunk, last = self._next_chunk(session)
            except Exception as e:  # whatever its text made of it: the others speak on
                session.done = True
                out[slot] = Speech(torch.zeros(0), (), True, e)
                continue
            if last and not session.planned:  # there was nothing to say
                session.done = True
                out[slot] = Speech(torch.zeros(0), (), True)
            elif last or chunk:
                feeds[slot], final = self._take(session, chunk, last), final + [slot] * last
                self._engine.set_lookahead(slot, max(chunk // self._chunk - 1, 0))
        for slot, (pcm, count) in self._engine.step(feeds, final).items():
            out[slot] = self._collect(self._sessions[slot], pcm[:count], slot in final)
        return out

    def close(self, slot: Slot) -> None:
        """End a session, spoken out or not. Raises UnknownSlot."""
        self._session(slot)
        self._engine.close(slot)
        del self._sessions[slot]

    def speak(self, text: str, *, rate: float = 1.0, seed: int = 0) -> Spoken:
        """A whole text at once, in an engine of its own. Raises BadSpeech, BadConfig, and any Speech's error."""
        alone = Synthesizer(self.voice, steps=self.steps)
        slot = alone.open(rate=rate, seed=seed)
        alone.push(slot, text)
        alone.finish(slot)
        pcm: list[Tensor] = []
        words: list[SpokenWord] = []
        while True:
            speech = alone.step()[slot]
            if speech.error:
                raise speech.error
            pcm.append(speech.pcm)
            words += speech.words
            if speech.done:
                return Spoken(torch.cat(pcm), tuple(words), self.sample_rate)

    def _session(self, slot: Slot) -> _Session:
        if slot not in self._sessions:
            raise UnknownSlot(f"{slot} is not open")
        return self._sessions[slot]

    def _writing(self, slot: Slot) -> _Session:
        session = self._session(slot)
        if session.finished:
            raise UnknownSlot(f"{slot}: its text has been finished; open another session")
        return session

    @staticmethod
    def _split(session: _Session, text: str, *, last: bool) -> None:
        for item in session.reader.finish() if last else session.reader.push(text):
            session.phrases += session.splitter.add(item)
        if last:
            session.phrases += session.splitter.finish()

    def _next_chunk(self, session: _Session) -> tuple[int, bool]:
        """How many frames to speak next, 0 where none are ready, and whether the session ends.

        Chunks are whole multiples of the smallest, and reach over the end of a phrase only with what is less than one
        (and the frames looked ahead): so all but that is spoken, however long the next phrase takes to be written.
        """
        while self._spare(session) < self._chunk and session.phrases:
            self._plan(session)
        spare = self._spare(session)
        if session.finished and not session.phrases and spare < self._chunk:
            return 0, True
        most = CHUNKS[min(session.chunks, len(CHUNKS) - 1)]
        return self._chunk * max(0, min(most, spare // self._chunk)), False

    def _spare(self, session: _Session) -> int:
        """Frames that are planned and can be spoken."""
        return session.planned - self._ahead - session.spoken

    def _take(self, session: _Session, chunk: int, last: bool) -> Tensor:
        """What to feed so that the flow takes its next chunk; all there is where the session ends."""
        session.chunks += 1
        session.spoken += chunk
        fed = len(session.frames) if last else session.spoken + self._ahead - session.fed
        session.fed += fed
        taken, session.frames = session.frames[:fed], session.frames[fed:]
        return taken

    def _plan(self, session: _Session) -> None:
        """The next phrase's frames and word times."""
        phrase = session.phrases.popleft()
        session.chunks = min(session.chunks, 1)
        if phrase.words:
            self._plan_words(session, phrase)
        if phrase.pause:
            count = max(1, round(phrase.pause * self.sample_rate / self.voice.frame_samples))
            self._append(session, self.voice.pause(count).frames)

    def _plan_words(self, session: _Session, phrase: Phrase) -> None:
        said = script(phrase if self.voice.timed else replace(phrase, before=(), after=()))
        rate = min(max(session.rate * phrase.rate, SLOWEST), FASTEST)
        plan = self.voice.plan(encode(said.symbols), rate=rate)
        starts = [0]
        for frames in plan.durations:
            starts.append(starts[-1] + frames)
        at = session.planned - starts[said.begin]
        for word in said.words:
            start, end = ((at + starts[i]) * self.voice.frame_samples for i in (word.first, word.end))
            session.words.append(SpokenWord(word.text, start, end))
        self._append(session, plan.frames[starts[said.begin] : starts[said.end]])

    @staticmethod
    def _append(session: _Session, frames: Tensor) -> None:
        session.planned += len(frames)
        session.frames = torch.cat((session.frames, frames))

    def _collect(self, session: _Session, pcm: Tensor, done: bool) -> Speech:
        session.made += len(pcm)
        session.done = done
        words = []
        while session.words and (done or session.words[0].start_sample < session.made):
            words.append(session.words.popleft())
        return Speech(pcm.float().cpu(), tuple(words), done)
