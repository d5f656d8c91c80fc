"""What may have a say over prefixes besides the acoustics: the interface of `CtcBeam`, and a plain function behind it.

`lm.LmScorer` and `hotwords.HotwordScorer` are the ones in use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vivavoce.streaming.state import State


class Scorer(Protocol):
    """An external model over prefixes: an n-gram, a neural language model, a list of hot words.

    It keeps whatever it knows of a prefix in a `State` whose leaves are (slots, beam, ...); scores are in nats, already
    weighted, and added to the CTC log-probability of the prefix.
    """

    def init_state(self, slots: int, beam: int) -> State: ...

    def score(self, state: Any, slot: Tensor, prefix: Tensor, token: Tensor) -> Tensor:
        """What extending some prefixes by a token adds. slot, prefix: (n,), which; token: (n,). Returns (n,)."""
        ...

    def at_most(self, token: Tensor) -> Tensor:
        """What `score` cannot exceed for a token, whatever the prefix. Any shape; returns the same."""
        ...

    def advance(self, state: Any, source: Tensor, token: Tensor, extended: Tensor) -> None:
        """Rewrite the state in place: prefix k now descends from prefix source[k], and where extended[k], by token[k].

        All (slots, beam).
        """
        ...

    def finish(self, state: Any) -> Tensor:
        """What the end of the stream adds to each prefix, (slots, beam)."""
        ...


@dataclass(frozen=True, eq=False)
class ContextState(State):
    """The last tokens of each prefix, oldest first, -1 before the stream's start."""

    context: Tensor  # (slots, beam, width) int64


class ContextScorer:
    """A plain Python function of the last `width` tokens as a `Scorer`; an n-gram model has width n - 1.

    score(context, token): the weighted log-probability of token after context; token is None at the end of the stream.
    """

    def __init__(self, score: Callable[[tuple[int, ...], int | None], float], width: int) -> None:
        self._score, self.width = score, width

    def init_state(self, slots: int, beam: int) -> ContextState:
        return ContextState(torch.full((slots, beam, self.width), -1))

    def score(self, state: ContextState, slot: Tensor, prefix: Tensor, token: Tensor) -> Tensor:
        context = state.context[slot.to(state.context.device), prefix.to(state.context.device)].tolist()
        scores = [self._score(tuple(c), t) for c, t in zip(context, token.tolist(), strict=True)]
        return torch.tensor(scores, dtype=torch.float64, device=token.device)

    def at_most(self, token: Tensor) -> Tensor:
        return torch.full_like(token, torch.inf, dtype=torch.float64)  # nobody knows

    def advance(self, state: ContextState, source: Tensor, token: Tensor, extended: Tensor) -> None:
        context = state.context[torch.arange(len(source))[:, None], source.to(state.context.device)]
        longer = torch.cat([context, token.to(context)[..., None]], dim=-1)[..., 1:]
        state.context.copy_(torch.where(extended.to(context.device)[..., None], longer, context))

    def finish(self, state: ContextState) -> Tensor:
        scores = [self._score(tuple(c), None) for c in state.context.flatten(0, 1).tolist()]
        return torch.tensor(scores, dtype=torch.float64).view(state.context.shape[:2])
