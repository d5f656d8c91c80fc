"""Words that the caller expects, fused in the CTC prefix beam (Zhao et al. 2019, shallow fusion): an automaton over
letters that finds all of them at once (Aho and Corasick 1975).

Phrases come from `--hotwords` or `Recognizer(hotwords=...)`. Every piece that goes on spelling one raises its prefix's
score; what was raised is taken back when the spelling breaks off before the phrase's end, so other text costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vivavoce.speech.errors import BadConfig
from vivavoce.speech.text import normalize
from vivavoce.streaming.state import State

from .scorer import Scorer
from .words import SPACE

BOOST = 2.5  # nats a letter
FREE = 3  # letters of a phrase that earn nothing, its `▁` among them: too many other words begin the same way


def worth(letters: int, whole: bool) -> int:
    """How many letters are paid for so many of a phrase; a whole one, however short, is worth two."""
    return max(letters - FREE, 2 if whole else 0)


@dataclass(frozen=True, eq=False)
class HotwordState(State):
    """node: (slots, beam) int64, where in the automaton each prefix's end stands; 0 is outside of every phrase."""

    node: Tensor


class HotwordScorer:
    """Phrases as a `Scorer`: an automaton over the tokenizer's pieces, its tables computed once.

    A phrase begins where a word begins and ends where one ends; any way of spelling it in pieces counts, since the
    automaton is one of letters. Each phrase in a text adds its worth, also one that overlaps another; one inside
    another adds nothing more. boost: nats for each letter after the first few (`worth`).
    """

    def __init__(self, phrases: Iterable[str], pieces: Sequence[str], boost: float = BOOST,
                 device: torch.device | str = "cpu") -> None:
        """pieces: the vocabulary by token id, `▁` where a word begins. Raises BadConfig: a phrase without letters."""
        spelt = set[str]()
        for phrase in phrases:
            words = normalize(phrase)
            if not words:
                raise BadConfig(f"hot word {phrase!r} has no letters that a recogniser writes; leave it out")
            spelt.add(SPACE + words.replace(" ", SPACE))
        following, added, ending = (x.to(device) for x in _Automaton(spelt).tables(pieces))
        self.boost, self.following, self.added, self.ending = boost, following, added * boost, ending * boost
        self.best = self.added.amax(0)

    def init_state(self, slots: int, beam: int) -> HotwordState:
        return HotwordState(torch.zeros(slots, beam, dtype=torch.int64, device=self.following.device))

    def score(self, state: HotwordState, slot: Tensor, prefix: Tensor, token: Tensor) -> Tensor:
        return self.added[state.node[slot, prefix], token]

    def at_most(self, token: Tensor) -> Tensor:
        return self.best[token]

    def advance(self, state: HotwordState, source: Tensor, token: Tensor, extended: Tensor) -> None:
        node = state.node.gather(1, source)
        state.node.copy_(torch.where(extended, self.following[node, token], node))

    def finish(self, state: HotwordState) -> Tensor:
        return self.ending[state.node]


class _Automaton:
    """Letters as nodes, shorter spellings first; node 0 has none. Each stands for the longest end of the text so far
    that a phrase begins with.

    fallback: the next shorter such end; closing: what phrases add that end here, if the word ends here too; inside:
    what phrases have added that ended on the way here; lent: what is paid beforehand.
    """

    def __init__(self, phrases: Collection[str]) -> None:
        begun = {phrase[:end] for phrase in phrases for end in range(len(phrase) + 1)}
        spelt = sorted(begun | {""}, key=lambda text: (len(text), text))
        nodes = {text: node for node, text in enumerate(spelt)}
        self.children: list[dict[str, int]] = [{} for _ in spelt]
        for text, node in nodes.items():
            if text:
                self.children[nodes[text[:-1]]][text[-1]] = node
        self.fallback, self.closing, self.inside, self.lent = ([0] * len(spelt) for _ in range(4))
        for text, node in nodes.items():
            if not text:
                continue
            before, letter = nodes[text[:-1]], text[-1]
            back = self.follow(self.fallback[before], letter) if before else 0
            paid = self.inside[before] + (self.closing[before] if letter == SPACE else 0)
            own = worth(len(text), True) - paid - self.closing[back] if text in phrases else 0
            self.fallback[node], self.inside[node] = back, paid
            self.closing[node] = self.closing[back] + max(own, 0)
            self.lent[node] = max(self.closing[node], worth(len(text), False) - paid, self.lent[back])

    def follow(self, node: int, letter: str) -> int:
        while node and letter not in self.children[node]:
            node = self.fallback[node]
        return self.children[node].get(letter, 0)

    def spell(self, node: int, piece: str) -> tuple[int, int]:
        """The node that the piece's letters lead to, and what they add."""
        gain = -self.lent[node]
        for letter in piece:
            gain += self.closing[node] if letter == SPACE else 0
            node = self.follow(node, letter)
        return node, gain + self.lent[node]

    def tables(self, pieces: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """following and added, (nodes, pieces): where each piece leads and what it adds; ending (nodes,): what the end
        of the stream adds. What is added along any way sums to the worth of the phrases on it."""
        begin = defaultdict[str, list[int]](list)
        for i, piece in enumerate(pieces):
            begin[piece[:1]].append(i)
        closing, lent = torch.tensor(self.closing), torch.tensor(self.lent)
        following = torch.zeros(len(self.children), len(pieces), dtype=torch.int64)
        added = torch.zeros_like(following)
        for node, back in enumerate(self.fallback):
            if node:  # a piece that does not go on from here does what it does from the shorter end
                following[node], added[node] = following[back], added[back] + lent[back] - lent[node]
                added[node, begin[SPACE]] += closing[node] - closing[back]
            for i in (i for letter in (self.children[node] if node else begin) for i in begin[letter]):
                following[node, i], added[node, i] = self.spell(node, pieces[i])
        return following, added, closing - lent


@dataclass(frozen=True, eq=False)
class SumState(State):
    """One state a scorer."""

    parts: tuple[State, ...]


class SumScorer:
    """Several scorers as one."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.scorers = tuple(scorers)

    def init_state(self, slots: int, beam: int) -> SumState:
        return SumState(tuple(s.init_state(slots, beam) for s in self.scorers))

    def score(self, state: SumState, slot: Tensor, prefix: Tensor, token: Tensor) -> Tensor:
        parts = zip(self.scorers, state.parts, strict=True)
        return torch.stack([s.score(x, slot, prefix, token) for s, x in parts]).sum(0)

    def at_most(self, token: Tensor) -> Tensor:
        return torch.stack([s.at_most(token) for s in self.scorers]).sum(0)

    def advance(self, state: SumState, source: Tensor, token: Tensor, extended: Tensor) -> None:
        for scorer, part in zip(self.scorers, state.parts, strict=True):
            scorer.advance(part, source, token, extended)

    def finish(self, state: SumState) -> Tensor:
        return torch.stack([s.finish(x) for s, x in zip(self.scorers, state.parts, strict=True)]).sum(0)
