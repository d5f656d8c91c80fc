"""What a beam search knows of the language: an n-gram and, beside it, a recurrent network; and their scorer.

checkpoint.py loads both with the recogniser; `CtcBeam` asks `LmScorer` what each next piece of each prefix is
worth. An n-gram remembers what it has read and a network guesses what it has not, so their probabilities are mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vivavoce.speech.errors import BadCheckpoint
from vivavoce.streaming.state import State

from .neural_lm import NeuralLm
from .ngram import NGram

# Least word errors over three kinds of dev recordings; the penalty is `CtcBeam`'s, in nats.
WEIGHT, BONUS, BLANK_PENALTY = 1.2, 0.6, 3.5
SHARE = 0.5  # of the network in the mixture
NGRAM, NEURAL = "ngram.safetensors", "lm.safetensors"


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """An n-gram, and a network beside it if there is one, over the pieces of one tokenizer."""

    ngram: NGram
    neural: NeuralLm | None = None

    @property
    def pieces(self) -> int:
        return self.ngram.pieces

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.ngram.to(device), self.neural.to(device) if self.neural else None)

    def save(self, folder: Path) -> None:
        self.ngram.save(folder / NGRAM)
        if self.neural:
            self.neural.save(folder / NEURAL)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What a folder has; None where it has no n-gram.

        Raises BadCheckpoint for files that are damaged, or that know different pieces.
        """
        if not (folder / NGRAM).is_file():
            return None
        ngram = NGram.load(folder / NGRAM)
        if not (folder / NEURAL).is_file():
            return cls(ngram)
        neural = NeuralLm.load(folder / NEURAL)
        if neural.pieces != ngram.pieces:
            raise BadCheckpoint(f"{folder / NEURAL}: it knows {neural.pieces} pieces, the n-gram {ngram.pieces}; "
                                "train both with one tokenizer")
        return cls(ngram, neural)

    @staticmethod
    def size(folder: Path) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for name in (NGRAM, NEURAL) if (path := folder / name).is_file())


@dataclass(frozen=True, eq=False)
class NeuralState(State):
    """What the network remembers of each prefix, (slots, beam, hidden) twice, and the log-probability of every piece
    after it, (slots, beam, pieces)."""

    h: Tensor
    c: Tensor
    log_prob: Tensor


@dataclass(frozen=True, eq=False)
class LmState(State):
    """context: (slots, beam, order - 1) int64, as `NGram` has it; neural: none or one."""

    context: Tensor
    neural: tuple[NeuralState, ...]


class LmScorer:
    """weight * log P(piece | prefix) and a bonus in nats for each word begun, as the beam's `Scorer`.

    The bonus makes up for the price of every word, without which a beam leaves words out. A stream may end after any
    word, but not within one: its end costs what it would for the next piece to begin a word, or the last word would be
    cut down to its first, likely piece.
    """

    def __init__(self, lm: LanguageModel, weight: float = WEIGHT, bonus: float = BONUS, share: float = SHARE) -> None:
        self.ngram, self.weight, self.share = lm.ngram, weight, share
        self.cell = Cell(lm.neural) if lm.neural else None
        self.bonus = self.ngram.word_start.float() * bonus
        self.starts = self.ngram.word_start.nonzero()[:, 0]

    def init_state(self, slots: int, beam: int) -> LmState:
        return LmState(self.ngram.start(slots, beam), (self.cell.start(slots, beam),) if self.cell else ())

    def score(self, state: LmState, slot: Tensor, prefix: Tensor, token: Tensor) -> Tensor:
        found = self.ngram.score(state.context[slot, prefix], token[:, None])[:, 0]
        for neural in state.neural:
            found = self._mixed(found, neural.log_prob[slot, prefix, token])
        return self.weight * found + self.bonus[token]

    def at_most(self, token: Tensor) -> Tensor:
        return self.bonus[token]

    def _mixed(self, found: Tensor, other: Tensor) -> Tensor:
        """The n-gram's log-probabilities and the network's."""
        return torch.logaddexp(found + math.log(1 - self.share), other + math.log(self.share))

    def advance(self, state: LmState, source: Tensor, token: Tensor, extended: Tensor) -> None:
        context = state.context.gather(1, source[..., None].expand_as(state.context))
        state.context.copy_(torch.where(extended[..., None], self.ngram.advance(context, token), context))
        if self.cell:
            self.cell.advance(state.neural[0], source, token, extended)

    def finish(self, state: LmState) -> Tensor:
        found = self.ngram.score(state.context, self.starts.expand(*state.context.shape[:2], -1))
        for neural in state.neural:
            found = self._mixed(found, neural.log_prob[..., self.starts])
        return self.weight * found.logsumexp(-1)


class Cell:
    """A `NeuralLm` one piece at a time, for the prefixes that grow: one small product a step."""

    def __init__(self, lm: NeuralLm) -> None:
        self.head, self.hidden, self.mark = lm.head, lm.hidden, lm.pieces
        weight, recurrent, bias, second_bias = (p.detach() for p in lm.lstm.parameters())
        self.recurrent = recurrent
        self.inputs = F.linear(lm.embedding.weight.detach(), weight, bias + second_bias)  # (pieces + 1, 4 * hidden)

    @torch.no_grad()
    def start(self, slots: int, beam: int) -> NeuralState:
        zero = self.inputs.new_zeros(1, self.hidden)
        h, c, log_prob = self._step(torch.tensor([self.mark], device=zero.device), zero, zero)
        return NeuralState(*(x.expand(slots, beam, -1).clone() for x in (h, c, log_prob)))

    def advance(self, state: NeuralState, source: Tensor, token: Tensor, extended: Tensor) -> None:
        """As `Scorer.advance`; only prefixes that grew are computed."""
        slots, beam = source.shape
        row = (source + beam * torch.arange(slots, device=source.device)[:, None]).flatten()
        kept = [x.flatten(0, 1)[row] for x in (state.h, state.c, state.log_prob)]
        grown = extended.flatten().nonzero()[:, 0]
        if len(grown):
            made = self._step(token.flatten()[grown], kept[0][grown], kept[1][grown])
            for x, new in zip(kept, made, strict=True):
                x[grown] = new
        for old, x in zip((state.h, state.c, state.log_prob), kept, strict=True):
            old.copy_(x.view_as(old))

    def _step(self, token: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """token: (n,); h, c: (n, hidden). Returns both after it, and (n, pieces)."""
        i, f, g, o = (self.inputs[token] + h @ self.recurrent.T).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, c, self.head(h).log_softmax(-1)
