"""The recogniser: PCM at 16 kHz in, words out, for one session or many in one batch.

It chains features, encoder and decoder in an `Engine` and turns what they emit into words. A file is a session fed in
large blocks and a microphone one fed in small ones; the words are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from vivavoce.speech import audio
from vivavoce.speech.errors import BadCheckpoint, BadConfig
from vivavoce.speech.vad import Vad
from vivavoce.streaming.chain import AnyStage, Chain, ChainState
from vivavoce.streaming.clock import Clock
from vivavoce.streaming.engine import Engine, Slot

from .ctc import CtcGreedy
from .ctc_beam import CtcBeam
from .hotwords import HotwordScorer, SumScorer
from .lm import BLANK_PENALTY, LanguageModel, LmScorer
from .model import AsrModel
from .pronunciation import Pronunciation
from .scorer import Scorer
from .transcript import Transcript
from .transducer import GatedTransducer, TransducerGreedy
from .voice import Gate, GatedCtc, Heard
from .words import Emissions, OpenWord, Token, Update, Vocabulary, Word

BLOCK_SECONDS = 30.0  # how much of a file is fed at once
BEAM_TAIL = 8  # pieces a beam may leave open: with 6 words are final 0.16 s sooner and up to a point more are wrong.
# With hot words, which the acoustics alone would drop before they are spelt, it may leave twice as many.


@dataclass(frozen=True)
class Progress:
    """What a session carries besides its tensors: samples heard, and the word still growing."""

    heard: int = 0
    open_word: OpenWord = field(default_factory=OpenWord)


@dataclass(frozen=True)
class Snapshot:
    """A whole session as a value: open another with it, here or in another process."""

    state: ChainState
    progress: Progress
    lookahead: int


class Recognizer:
    """Many sessions on one model. Not thread-safe: one thread steps it.

    model, tokenizer: what `speech.checkpoint.load` returns; slots: sessions at once; decoder: "auto" (the beam
    where there is a language model to fuse, else greedy), "greedy" (the transducer where there is one, else CTC), or
    "ctc", "beam" (CTC prefixes), "rnnt", "tdt"; lm: what the beam is to fuse; gate: write nothing where voice activity
    hears nobody, as the model's configuration says; hotwords: words and phrases to expect, for the beam alone.
    A model that hears whole utterances only can `transcribe`, but not `open` a session.
    """

    def __init__(self, model: AsrModel, tokenizer: Tokenizer, *, slots: int = 1, decoder: str = "auto",
                 lm: LanguageModel | None = None, gate: bool = True, hotwords: Sequence[str] = ()) -> None:
        """Raises BadCheckpoint when the model does not have that decoder, BadConfig for hot words that none can use."""
        self.model = model.eval()
        self.clock = Clock()
        pieces = [tokenizer.id_to_token(i) or "" for i in range(model.config.pieces)]
        self.vocabulary = Vocabulary(pieces, self.clock.frame)
        gated = model.config.gate if gate and model.config.encoder.causal else None
        weight = next(model.encoder.parameters())
        self.device = weight.device
        scorers: list[Scorer] = [LmScorer(lm.to(self.device))] if lm else []
        scorers += [HotwordScorer(hotwords, pieces, device=self.device)] if hotwords else []
        self.decoder = decoder_of(model, decoder, pieces, scorers, gated=gated is not None)
        if hotwords and not isinstance(self.decoder, CtcBeam):
            raise BadConfig(f"decoder {decoder!r} cannot use hot words; choose beam, on a model with a CTC head")
        self._engine: Engine[ChainState] | None = None
        if model.config.encoder.causal:
            model.encoder.tabulate()
            self._engine = Engine(self._chain(gated, torch.zeros((), dtype=weight.dtype, device=weight.device)), slots)
        self._progress: dict[Slot, Progress] = {}

    def _chain(self, gate: Gate | None, like: Tensor) -> Chain:
        """PCM to tokens; behind a gate the first stage is features, encoder and voice activity together."""
        model, e = self.model, self.model.config.encoder
        hear: list[AnyStage] = [model.features, model.encoder]
        if gate is None:
            return Chain([*hear, self.decoder], item_shapes=[(), (e.mels,), (e.width,)], like=like)
        heard = Heard(Chain(hear, item_shapes=[(), (e.mels,)], like=like), Vad.load().to(like.device), gate)
        return Chain([heard, self.decoder], item_shapes=[(), (e.width + 1,)], like=like)

    @property
    def engine(self) -> Engine[ChainState]:
        """Raises BadCheckpoint for a model that cannot stream."""
        if self._engine is None:
            raise BadCheckpoint(f"{self.model.config.name} hears whole utterances only and cannot stream; "
                                "choose a model with a causal encoder")
        return self._engine

    def open(self, *, lookahead: int = 6, snapshot: Snapshot | None = None) -> Slot:
        """Start a session; lookahead in encoder frames of 80 ms (see `Clock.lookahead_frames`).

        Raises Full, BadLookahead, StateMismatch for the snapshot of another model.
        """
        if snapshot is not None:
            slot = self.engine.open(lookahead=snapshot.lookahead, snapshot=snapshot.state)
            self._progress[slot] = snapshot.progress
        else:
            slot = self.engine.open(lookahead=lookahead)
            self._progress[slot] = Progress()
        return slot

    def set_lookahead(self, slot: Slot, lookahead: int) -> None:
        """From the session's next chunk on."""
        self.engine.set_lookahead(slot, lookahead)

    def step(self, feeds: Mapping[Slot, Tensor], final: Collection[Slot] = ()) -> dict[Slot, Update]:
        """Feed each session its new samples, (n,) float32 and any n; sessions in `final` end with them.

        Returns for each the words finished by this step and the tail that may still change. Raises UnknownSlot, and
        BadAudio for samples that `audio.check` refuses, before any session has heard anything.
        """
        checked = {slot: audio.check(pcm, f"the audio for {slot}") for slot, pcm in feeds.items()}
        emitted = self.engine.step({slot: pcm.to(self.device) for slot, pcm in checked.items()}, final)
        updates = {}
        for slot, (row, count) in emitted.items():
            before = self._progress[slot]
            heard = before.heard + len(checked[slot])
            open_word, updates[slot] = self.vocabulary.feed(before.open_word, tokens_of_row(row, count), heard,
                                                            slot in final, self._unstable(slot))
            self._progress[slot] = Progress(heard, open_word)
        return updates

    def _unstable(self, slot: Slot) -> list[Token]:
        """What a beam search believes but has not committed to."""
        tail = getattr(self.decoder, "tail", None)
        return tail(self.engine.state.stages[-1], slot.index) if tail else []

    def _transcribe_whole(self, blocks: Iterable[Tensor]) -> Transcript:
        """For a model that needs the utterance's end before its beginning."""
        pcm = audio.check(torch.cat([torch.zeros(0), *blocks])).to(self.device)
        samples = torch.tensor([len(pcm)], device=self.device)
        with torch.no_grad():
            x, count = self.model(pcm[None], samples)
        ends = torch.ones_like(count, dtype=torch.bool)
        row, n = self.decoder.step(x, self.decoder.init_state(1), count, ends)
        tokens = tokens_of_row(type(row)(*(column[0] for column in row)), int(n[0]))
        _, update = self.vocabulary.feed(OpenWord(), tokens, len(pcm), final=True)
        return Transcript(update.stable, len(pcm), self.clock.rate, self.model.config.name)

    def snapshot(self, slot: Slot) -> Snapshot:
        """Raises UnknownSlot, also for a session that has ended."""
        return Snapshot(self.engine.snapshot(slot), self._progress[slot], self.engine.lookahead(slot))

    def close(self, slot: Slot) -> None:
        self.engine.close(slot)
        del self._progress[slot]

    def heard(self, slot: Slot) -> int:
        """Samples fed to this session so far."""
        return self._progress[slot].heard

    def transcribe(self, pcm: Tensor, *, lookahead: int = 69) -> Transcript:
        """One recording, (n,) float32 at 16 kHz. Raises Full."""
        (_, transcript), = self.transcribe_streams([blocks_of(pcm)], lookahead=lookahead)
        return transcript

    def transcribe_streams(self, streams: Sequence[Iterable[Tensor]], *,
                           lookahead: int = 69) -> Iterator[tuple[int, Transcript]]:
        """Recordings as iterables of blocks, as many at once as there are free slots; yields (index, transcript) as
        each ends. Raises Full where others hold every slot, and what an iterable raises, with the other recordings
        lost: catch errors inside the iterable."""
        if self._engine is None:
            for i, stream in enumerate(streams):
                yield i, self._transcribe_whole(stream)
            return
        waiting = iter(enumerate(streams))
        running: dict[Slot, _Reading] = {}
        try:
            while True:
                while (self.engine.free or not running) and (entry := next(waiting, None)) is not None:
                    running[self.open(lookahead=lookahead)] = _Reading(entry[0], entry[1])
                if not running:
                    return
                yield from self._advance(running, lookahead)
        finally:
            for slot in running:
                self.close(slot)

    def _advance(self, running: dict[Slot, _Reading], lookahead: int) -> Iterator[tuple[int, Transcript]]:
        feeds = {slot: reading.next_block() for slot, reading in running.items()}
        ended = [slot for slot in running if running[slot].ended]
        for slot, update in self.step(feeds, ended).items():
            running[slot].words += update.stable
        for slot in ended:
            reading = running.pop(slot)
            samples = self.heard(slot)
            self.close(slot)
            yield reading.index, Transcript(tuple(reading.words), samples, self.clock.rate, self.model.config.name,
                                            self.clock.lookahead_ms(lookahead))


class _Reading:
    """A recording being read: one block is held so that the last is known as the last."""

    def __init__(self, index: int, stream: Iterable[Tensor]) -> None:
        self.index, self.words = index, list[Word]()
        self._blocks = iter(stream)
        self._held: Tensor | None = next(self._blocks, None)

    @property
    def ended(self) -> bool:
        return self._held is None

    def next_block(self) -> Tensor:
        block, self._held = self._held, next(self._blocks, None)
        return torch.zeros(0) if block is None else block


def decoder_of(model: AsrModel, name: str, pieces: Sequence[str], scorers: Sequence[Scorer] = (),
               gated: bool = False, tail: int = BEAM_TAIL) -> Any:
    """The decoding stage of that name; see `Recognizer`. pieces: the vocabulary by token id; scorers: what a beam
    fuses; gated: its frames come from `Heard`; tail: pieces a beam may leave open."""
    has = model.config.decoders
    if name == "auto":
        name = "beam" if scorers and "ctc" in has else "greedy"
    if name == "greedy":
        name = has[-1] if has else name
    if name in ("ctc", "beam") and model.ctc is not None:
        head = GatedCtc(model.ctc, model.config.blank) if gated else model.ctc
        if name == "ctc":
            return CtcGreedy(head, model.config.blank)
        scorer = scorers[0] if len(scorers) == 1 else SumScorer(scorers) if scorers else None
        expecting = any(isinstance(one, HotwordScorer) for one in scorers)
        penalty = BLANK_PENALTY if any(isinstance(one, LmScorer) for one in scorers) else 0.0
        pronunciation = Pronunciation(model.phones, pieces) if model.phones else None
        return CtcBeam(head, model.config.blank, tail=(2 if expecting else 1) * tail, scorer=scorer,
                       blank_penalty=penalty, pronunciation=pronunciation)
    if name in ("rnnt", "tdt") and name in has and model.transducer is not None and model.config.transducer is not None:
        transducer = GatedTransducer(model.transducer) if gated else model.transducer
        return TransducerGreedy(transducer, model.config.transducer.max_symbols)
    raise BadCheckpoint(f"{model.config.name} has no decoder {name!r}; it has {', '.join(has) or 'none'}"
                        + (" and beam" if "ctc" in has else ""))


def tokens_of_row(row: Emissions, count: int) -> list[Token]:
    """One session's emissions, (m,) each, as plain values."""
    columns = (column[:count].tolist() for column in row)
    return [Token(*values) for values in zip(*columns, strict=True)]


def blocks_of(pcm: Tensor, seconds: float = BLOCK_SECONDS, rate: int = 16000) -> Iterator[Tensor]:
    """pcm (n,) in pieces of `seconds`; at least one."""
    size = round(seconds * rate)
    yield from pcm.split(size) if len(pcm) else [pcm]
