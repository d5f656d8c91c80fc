"""Words that the caller expects: a trie over letters, fused in the CTC prefix beam (Zhao et al. 2019, shallow fusion).

Phrases come from `--hotwords` or `Recognizer(hotwords=...)`. Every piece that goes on spelling one raises its prefix's
score; what was raised is taken back when the spelling breaks off before the phrase's end, so other text costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """node: (slots, beam) int64, where in the trie each prefix's end stands; 0 is outside of every phrase."""

    node: Tensor


class HotwordScorer:
    """Phrases as a `Scorer`: an automaton over the tokenizer's pieces, its tables computed once.

    A phrase begins where a word begins and ends where one ends; any way of spelling it in pieces counts, since the trie
    is one of letters. From a phrase that is the beginning of a longer one only what lies past it is taken back. boost:
    nats for each letter after the first few (`worth`).
    """

    def __init__(self, phrases: Iterable[str], pieces: Sequence[str], boost: float = BOOST,
                 device: torch.device | str = "cpu") -> None:
        """pieces: the vocabulary by token id, `▁` where a word begins. Raises BadConfig: a phrase without letters."""
        trie, self.boost = _Trie(), boost
        for phrase in phrases:
            words = normalize(phrase)
            if not words:
                raise BadConfig(f"hot word {phrase!r} has no letters that a recogniser writes; leave it out")
            trie.add(SPACE + words.replace(" ", SPACE))
        following, score, ending = trie.automaton(pieces, boost)
        self.following, self.added, self.ending = (x.to(device) for x in (following, score, ending))
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


class _Trie:
    """Letters as nodes; node 0 is the root."""

    def __init__(self) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.depth, self.parent, self.ends = [0], [0], [False]

    def add(self, letters: str) -> None:
        node = 0
        for letter in letters:
            if letter not in self.children[node]:
                self.children[node][letter] = len(self.children)
                self.children.append({})
                self.depth.append(self.depth[node] + 1)
                self.parent.append(node)
                self.ends.append(False)
            node = self.children[node][letter]
        self.ends[node] = True

    def _kept(self) -> list[int]:
        """What stays paid on the way to each node when its spelling breaks off: the last phrase that ended there, and a
        word with it. Parents come before their children."""
        kept = [0] * len(self.children)
        for node in range(1, len(kept)):
            before = self.parent[node]
            whole = self.children[before].get(SPACE) == node and self.ends[before]  # a word ended before this one
            kept[node] = worth(self.depth[before], True) if whole else kept[before]
        return kept

    def automaton(self, pieces: Sequence[str], boost: float) -> tuple[Tensor, Tensor, Tensor]:
        """following and added, (nodes, pieces): where each piece leads and what it adds; ending (nodes,): what the end
        of the stream adds. What is paid along any way sums to the worth of the phrases it completes."""
        paid = [worth(depth, ends) for depth, ends in zip(self.depth, self.ends, strict=True)]
        kept, following, added, ending = self._kept(), [], [], []
        fresh = [self._walk(0, piece) if piece.startswith(SPACE) else 0 for piece in pieces]
        for node, mine in enumerate(paid):
            after = mine if self.ends[node] else kept[node]  # where a word ends here
            ending.append(after - mine)
            row = [self._walk(node, piece) for piece in pieces]
            following.append([on or new for on, new in zip(row, fresh, strict=True)])
            added.append([
                paid[on] - mine if on else (after if piece.startswith(SPACE) else kept[node]) - mine + paid[new]
                for piece, on, new in zip(pieces, row, fresh, strict=True)])  # fmt: skip
        return torch.tensor(following), torch.tensor(added) * boost, torch.tensor(ending) * boost

    def _walk(self, node: int, piece: str) -> int:
        """The node that the piece's letters lead to, or 0."""
        for letter in piece:
            node = self.children[node].get(letter, 0)
            if not node:
                return 0
        return node if piece else 0


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
