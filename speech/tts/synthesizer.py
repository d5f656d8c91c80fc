"""The synthesizer: text in as it is written, PCM and the times of its words out, many sessions on one voice.

Text becomes phrases (`phrases`), a phrase is planned at once (`script`, `Voice.plan`), and its frames go through the
voice's flow and vocoder in chunks, all sessions in one batch. The first chunk is the smallest there is, so that sound
leaves early; later ones grow, so that a step does more. How text is cut into pushes, when they come and who else speaks
changes nothing: offline is `step` until it is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vivavoce.speech.errors import BadConfig
from vivavoce.streaming.chain import Chain, ChainState
from vivavoce.streaming.engine import Engine, Slot
from vivavoce.streaming.errors import UnknownSlot

from .phones import PAUSE, encode
from .phrases import Phrase, Splitter
from .script import script
from .ssml import FASTEST, SLOWEST, Reader

LONGEST_CHUNK = 40  # frames: 0.8 s of sound is the most that one step makes of a session


class Plan(Protocol):
    """frames: (T, width), what the flow starts from; durations: of each symbol planned, in frames; their sum is T."""

    @property
    def frames(self) -> Tensor: ...
    @property
    def durations(self) -> Sequence[int]: ...


class Voice(Protocol):
    """What a synthesizer needs of a voice; see `voice.Voice`.

    plan: phones to frames; lengths sets, for symbols by index, how many frames they take. chain: from frames
    to PCM, `frame_samples` a frame, at so many solver steps; its first stage works in chunks of `chunk` frames.
    """

    sample_rate: int
    frame_samples: int

    def plan(self, phones: Sequence[int], *, rate: float = 1.0, lengths: Mapping[int, int] = ...) -> Plan: ...
    def chain(self, steps: int) -> Chain: ...


@dataclass(frozen=True)
class SpokenWord:
    """A word as it stands in the text, with its punctuation (or several read as one: "May 2nd, 1999,"), and where in
    the session's sound it is."""

    word: str
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class Speech:
    """What one step made for one session. pcm: (n,) float32; words: those that begin in it; done: nothing follows."""

    pcm: Tensor
    words: tuple[SpokenWord, ...]
    done: bool


@dataclass(frozen=True)
class Spoken:
    """A whole text: pcm (n,) float32 at sample_rate."""

    pcm: Tensor
    words: tuple[SpokenWord, ...]
    sample_rate: int


@dataclass
class _Session:
    """What is between a session's text and its engine. frames: (n, width), planned and not yet fed; planned: how many
    frames that is in all, with those fed; made: samples given out."""

    rate: float
    frames: Tensor
    reader: Reader = field(default_factory=Reader)
    splitter: Splitter = field(default_factory=Splitter)
    phrases: deque[Phrase] = field(default_factory=deque)
    words: deque[SpokenWord] = field(default_factory=deque)
    planned: int = 0
    chunks: int = 0
    made: int = 0
    finished: bool = False  # no more text
    done: bool = False


class Synthesizer:
    """Many sessions on one voice. Not thread-safe: one thread steps it.

    voice: what `voice.Voice.load` returns; slots: sessions at once; steps: of the flow's solver, more is finer.
    """

    def __init__(self, voice: Voice, *, slots: int = 1, steps: int = 4) -> None:
        """Raises BadConfig for steps outside 1 to 100."""
        if not 1 <= steps <= 100:
            raise BadConfig(f"{steps} solver steps: give 1 to 100; 4 are usual")
        self.voice, self.steps = voice, steps
        self.sample_rate = voice.sample_rate
        self._chain = voice.chain(steps)
        self._chunk = max(1, self._chain.stages[0].spec.chunk)  # frames of the smallest chunk
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
        chain = self._chain
        state = chain.init_state(1)
        for name, leaf in state.leaves():
            if name.split(".")[-1] == "seed":
                leaf.fill_(seed)
        slot = self._engine.open(snapshot=state)
        self._sessions[slot] = _Session(rate, chain.like.new_zeros(0, *chain.item_shapes[0]))
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
            frames, last = self._next_chunk(session)
            if last and not len(frames) and not session.chunks:  # there was nothing to say
                session.done = True
                out[slot] = Speech(torch.zeros(0), (), True)
            elif last or len(frames):
                feeds[slot] = frames
                final += [slot] * last
                session.chunks += 1
                self._engine.set_lookahead(slot, max(1, -(-len(frames) // self._chunk)) - 1)
        for slot, (pcm, count) in self._engine.step(feeds, final).items():
            out[slot] = self._collect(self._sessions[slot], pcm[:count], slot in final)
        return out

    def close(self, slot: Slot) -> None:
        """End a session, spoken out or not. Raises UnknownSlot."""
        self._session(slot)
        self._engine.close(slot)
        del self._sessions[slot]

    def speak(self, text: str, *, rate: float = 1.0, seed: int = 0) -> Spoken:
        """A whole text at once, in an engine of its own. Raises BadSpeech, BadConfig."""
        alone = Synthesizer(self.voice, steps=self.steps)
        slot = alone.open(rate=rate, seed=seed)
        alone.push(slot, text)
        alone.finish(slot)
        pcm, words = [], []
        while True:
            speech = alone.step()[slot]
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

    def _next_chunk(self, session: _Session) -> tuple[Tensor, bool]:
        """The frames to feed next, (n, width), and whether the session ends with them; n is 0 where nothing is ready.

        Chunks are whole multiples of the smallest, and reach over the end of a phrase only with what is less than one:
        so all but that is spoken however long the next phrase takes to be written.
        """
        while len(session.frames) < self._chunk and session.phrases:
            self._plan(session)
        waiting = len(session.frames)
        if session.finished and not session.phrases and waiting < self._chunk:
            return session.frames, True
        most = min(self._chunk << min(session.chunks, 16), max(LONGEST_CHUNK, self._chunk))
        count = min(most, waiting) // self._chunk * self._chunk
        chunk, session.frames = session.frames[:count], session.frames[count:]
        return chunk, False

    def _plan(self, session: _Session) -> None:
        """The next phrase's frames and word times."""
        phrase = session.phrases.popleft()
        if phrase.words:
            self._plan_words(session, phrase)
        if phrase.pause:
            count = max(1, round(phrase.pause * self.sample_rate / self.voice.frame_samples))
            self._append(session, self.voice.plan(encode([PAUSE]), lengths={0: count}).frames)

    def _plan_words(self, session: _Session, phrase: Phrase) -> None:
        said = script(phrase)
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
        """A phrase's frames, behind what the one before could not fill a chunk with."""
        session.planned += len(frames)
        session.frames = torch.cat((session.frames, frames))

    def _collect(self, session: _Session, pcm: Tensor, done: bool) -> Speech:
        session.made += len(pcm)
        session.done = done
        words = []
        while session.words and (done or session.words[0].start_sample < session.made):
            words.append(session.words.popleft())
        return Speech(pcm.float().cpu(), tuple(words), done)
