"""The token model: phones in, speech tokens out, written one after another by the backbone's decoder on its sink cache.

Phones come from the front end, tokens go to the planner. A session either reads its whole text first or takes turns: it
reads `read` phones, writes `write` tokens, and so on in the ratio of their measured rates, until the text is over
(arXiv 2412.10117). Both are layouts of one model, trained on both. A session is a slot of a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor, nn

from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.model import DecoderState, LanguageModel
from vivavoce.speech.llm.sampling import SamplerState, Sampling, sample
from vivavoce.streaming.cache_policy import SinkRing
from vivavoce.streaming.engine import Engine, Slot
from vivavoce.streaming.errors import UnknownSlot
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

NOT_PREDICTED = -100  # what cross_entropy leaves out
NEVER = -1e9  # the score of what may not be drawn: no probability, and still finite
SAMPLING = Sampling(temperature=0.8, top_k=50, top_p=0.9, ras_window=10, ras_share=0.3)


@dataclass(frozen=True)
class WriterConfig:
    """symbols: of the phone table; codes: of the tokenizer, whose fingerprint this is; read, write: how many phones and
    tokens take turns; least, most: tokens a phone, between which speech may end; window: tokens that attention sees."""

    symbols: int
    codes: int
    fingerprint: str
    width: int = 192
    hidden: int = 512
    layers: int = 4
    heads: int = 4
    read: int = 12
    write: int = 12
    least: float = 0.4
    most: float = 3.0
    window: int = 1020

    def __post_init__(self) -> None:
        if min(self.read, self.write) < 1 or not 0 <= self.least < self.most:
            raise ValueError(f"{self}: read and write take 1 or more, and least lies under most")

    @property
    def over(self) -> int:
        """The control token after the last phone."""
        return self.symbols + self.codes

    @property
    def end(self) -> int:
        """The control token after the last speech token."""
        return self.over + 1

    @property
    def decoder(self) -> LlmConfig:
        return LlmConfig(self.end + 1, self.width, self.layers, self.heads, self.heads, self.width // self.heads,
                         self.hidden, qk_norm=True, tied=True, ends=(self.end,))  # fmt: skip


def layout(config: WriterConfig, phones: Sequence[int], tokens: Sequence[int], *,
           interleaved: bool) -> tuple[list[int], list[int]]:
    """An utterance as the decoder reads it, and what it is to predict after each item, NOT_PREDICTED where that is
    text."""
    spoken = [config.symbols + token for token in tokens]
    line, targets = list[int](), list[int]()
    text, at = list(phones), 0
    while True:
        last = not interleaved or len(text) <= config.read
        block, text = ([*text, config.over], []) if last else (text[: config.read], text[config.read :])
        written = spoken[at:] if last else spoken[at : at + config.write]
        at += len(written)
        line += [*block, *written]
        # the last of the block foretells the first token; the last token of a turn foretells nothing, text follows
        targets += [NOT_PREDICTED] * (len(block) - 1) + written + [config.end if last else NOT_PREDICTED]
        if last:
            return line, targets
        if len(written) < config.write:  # the speech was shorter than its text let expect: nothing is left to write
            line, targets = [*line, *text, config.over], targets + [NOT_PREDICTED] * len(text) + [config.end]
            return line, targets


class Writer(nn.Module):
    """The weights: phones and speech tokens share one vocabulary, phones first."""

    def __init__(self, config: WriterConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config.decoder)

    def forward(self, lines: Tensor) -> Tensor:
        """Whole utterances with gradients: lines (B, n) of `layout` -> scores of what follows (B, n, vocabulary)."""
        return self.decoder.logits(self.decoder(lines))


@dataclass(frozen=True, eq=False)
class WriterState(State):
    """phones, tokens: (slots,) int64 read and written so far; over: (slots,) bool, the text is."""

    decoder: DecoderState
    sampler: SamplerState
    phones: Tensor
    tokens: Tensor
    over: Tensor


class WriterStage:
    """Items of a line (slots, n) -> the item that is written after them (slots, 1). A `Stage`."""

    spec = StageSpec(Fraction(1), Fraction(1))

    def __init__(self, writer: Writer) -> None:
        self.config, self.decoder = writer.config, writer.decoder
        self.model = LanguageModel(writer.decoder, SinkRing(window=writer.config.window))

    def init_state(self, slots: int) -> WriterState:
        decoder = self.model.init_state(slots)
        device = decoder.cache.length.device
        none = torch.zeros(slots, dtype=torch.int64, device=device)
        return WriterState(decoder, SamplerState.empty(slots, device), none, none.clone(), none.bool())

    @torch.no_grad()
    def step(self, x: Tensor, state: WriterState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        hidden, _ = self.model.step(x, state.decoder, valid, final)
        there = torch.arange(x.shape[1], device=x.device) < valid[:, None]
        state.phones.add_(((x < self.config.symbols) & there).sum(1))
        state.tokens.add_(((x >= self.config.symbols) & (x < self.config.over) & there).sum(1))
        state.over.logical_or_(((x == self.config.over) & there).any(1))
        rows = (valid > 0).nonzero()[:, 0]
        out = torch.zeros_like(valid)
        if len(rows):
            scores = self._allowed(self.decoder.logits(hidden[rows, valid[rows] - 1]), state, rows)
            out[rows] = sample(scores, state.sampler, rows)
        return out[:, None], (valid > 0).long()

    def _allowed(self, scores: Tensor, state: WriterState, rows: Tensor) -> Tensor:
        """Speech tokens alone; the end once the text is over and enough is said, and nothing else once far too much
        is: so that speech is neither cut nor runs on whatever the model thinks."""
        c = self.config
        share = state.tokens[rows] / state.phones[rows].clamp(min=1)
        over = state.over[rows]
        ids = torch.arange(scores.shape[1], device=scores.device)
        speech = ((ids >= c.symbols) & (ids < c.over))[None] & ~(over & (share >= c.most))[:, None]
        end = (ids == c.end)[None] & (over & (share >= c.least))[:, None]
        return scores.masked_fill(~(speech | end), NEVER)


@dataclass(frozen=True)
class Written:
    """What one step wrote for a session: tokens of the tokenizer; done: nothing follows."""

    tokens: tuple[int, ...]
    done: bool


@dataclass
class _Session:
    """text: phones not yet read; turn: tokens left of this turn, 0 where phones come next; last: what was written last
    and is still to be fed."""

    interleaved: bool
    text: list[int] = field(default_factory=list)
    finished: bool = False
    over: bool = False
    turn: int = 0
    last: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def silent(self) -> bool:
        """Whether it ended without a phone."""
        return self.finished and not self.text and not self.last


class Writing:
    """Many sessions that write side by side, a token each a step. Not thread-safe."""

    def __init__(self, writer: Writer, *, slots: int = 1) -> None:
        self.config = writer.config
        self._device = writer.decoder.norm.weight.device
        self._engine: Engine[WriterState] = Engine(WriterStage(writer), slots)
        self._sessions: dict[Slot, _Session] = {}

    def open(self, *, interleaved: bool = True, sampling: Sampling = SAMPLING) -> Slot:
        """interleaved: write while phones still come; else only when the text is over. Raises Full."""
        fresh = self._engine.stage.init_state(1)
        fresh.sampler.set_(0, sampling)
        slot = self._engine.open(snapshot=fresh)
        self._sessions[slot] = _Session(interleaved)
        return slot

    def push(self, slot: Slot, phones: Sequence[int]) -> None:
        """More phones. Raises UnknownSlot, also after `finish`, and ValueError for ids outside the table."""
        session = self._session(slot)
        if session.finished:
            raise UnknownSlot(f"{slot}: its text has been finished; open another session")
        if any(not 0 <= phone < self.config.symbols for phone in phones):
            raise ValueError(f"phones are 0 to {self.config.symbols - 1}, not {list(phones)[:8]}")
        session.text += phones

    def finish(self, slot: Slot) -> None:
        """The text is complete. Raises UnknownSlot."""
        self._session(slot).finished = True

    def step(self) -> dict[Slot, Written]:
        """One token of every session that can write; {} when there is none."""
        feeds: dict[Slot, Tensor] = {}
        out: dict[Slot, Written] = {}
        for slot, session in self._sessions.items():
            if session.silent and not session.done:
                session.done, out[slot] = True, Written((), True)
            elif feed := self._next(session):
                feeds[slot] = torch.tensor(feed, device=self._device)
        for slot, (item, _) in (self._engine.step(feeds) if feeds else {}).items():
            out[slot] = self._take(self._sessions[slot], int(item))
        return out

    def close(self, slot: Slot) -> None:
        """Raises UnknownSlot."""
        self._session(slot)
        self._engine.close(slot)
        del self._sessions[slot]

    def _session(self, slot: Slot) -> _Session:
        if slot not in self._sessions:
            raise UnknownSlot(f"{slot} is not open")
        return self._sessions[slot]

    def _next(self, session: _Session) -> list[int]:
        """What to feed: the last token, and the next phones where a turn begins; nothing where those are missing."""
        if session.done:
            return []
        if session.turn or session.over:
            return session.last
        read = self.config.read
        if session.finished and (not session.interleaved or len(session.text) <= read):
            block, session.text, session.over = [*session.text, self.config.over], [], True
        elif session.interleaved and len(session.text) > read:  # whether these are the last is certain
            block, session.text, session.turn = session.text[:read], session.text[read:], self.config.write
        else:
            return []
        return [*session.last, *block]

    def _take(self, session: _Session, item: int) -> Written:
        session.turn = max(0, session.turn - 1)
        session.last = [item]
        session.done = item == self.config.end
        return Written(() if session.done else (item - self.config.symbols,), session.done)


def write(writer: Writer, phones: Sequence[int], *, interleaved: bool = False,
          sampling: Sampling = SAMPLING) -> list[int]:
    """A whole text: its speech tokens. Raises ValueError for ids outside the table."""
    writing = Writing(writer)
    slot = writing.open(interleaved=interleaved, sampling=sampling)
    writing.push(slot, phones)
    writing.finish(slot)
    tokens: list[int] = []
    while not (written := writing.step()[slot]).done:
        tokens += written.tokens
    return tokens
