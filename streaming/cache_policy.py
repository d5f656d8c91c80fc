"""Which tokens a key-value cache keeps: the policies behind `sink_cache.CacheState`.

A policy is a few numbers and no state. It says how many entries a slot needs, where new tokens go, how long each lives,
what leaves when room runs out, and at which positions the rest is seen. The model asks; the cache carries it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .sink_cache import CacheState

NEVER = 2**62  # the token index at which something that is not going to leave leaves


class Positions(NamedTuple):
    """Where rotary embedding places a block's queries and the keys they see; only differences matter.

    key: (rows, entries) of every entry; query: (rows, n); sink_query: (rows, n) of the same queries as the first
    `sinks` entries see them. The two differ where tokens between the sinks and the query have left. All lie in 0 to
    `entries`; those of empty entries and of padding mean nothing.
    """

    key: Tensor
    query: Tensor
    sink_query: Tensor


class CachePolicy(Protocol):
    """sinks: how many first tokens stay for ever, in entries 0 to sinks - 1; slack: how many tokens can always be taken
    back; entries: places a slot has; visible: the most tokens one query sees, itself included; block: the most tokens a
    row takes at once; limit: tokens after which nothing more can come, or None; scored: whether `plan` needs each
    token's surprise; steady: whether tokens past the sinks keep their distances, `plan` is None, and writing keys and
    values where the next token would go harms nothing."""

    @property
    def sinks(self) -> int: ...
    @property
    def slack(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def visible(self) -> int: ...
    @property
    def block(self) -> int: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def scored(self) -> bool: ...
    @property
    def steady(self) -> bool: ...

    def plan(self, cache: CacheState) -> Tensor | None:
        """(slots, entries) true for what must leave before the next token comes; None when nothing ever does so."""

    def room(self, cache: CacheState) -> Tensor:
        """(slots,) how many tokens may come before `plan` must be asked again."""

    def place(self, cache: CacheState, rows: Tensor, n: int) -> Tensor:
        """(rows, n) entries for the next n tokens of these rows, all different within a row."""

    def entry(self, index: Tensor) -> Tensor:
        """Where the tokens of these indices live, same shape. Only steady policies know; others raise ValueError."""

    def lifetime(self, index: Tensor) -> Tensor:
        """For the tokens of these indices, the index of the first query that no longer sees each. Same shape."""

    def seat(self, index: int) -> tuple[int, int]:
        """`entry` and `lifetime` of one token, as numbers: for a few of them these are had faster."""

    def positions(self, cache: CacheState, rows: Tensor, start: Tensor, entry: Tensor) -> Positions:
        """Of the block of tokens from index start (rows,) on, already placed in entry (rows, n)."""

    def floor(self, high: Tensor) -> Tensor:
        """The shortest length that a slot can return to once `high` tokens have been written. Same shape."""


class _Bounded:
    """What follows from how many tokens stay, where the window and some slack are all there is."""

    sinks: int
    window: int
    slack: int

    @property
    def entries(self) -> int:
        return self.sinks + self.window + self.slack

    @property
    def visible(self) -> int:
        return self.sinks + self.window

    @property
    def block(self) -> int:
        return self.slack + 1

    @property
    def limit(self) -> int | None:
        return None


@dataclass(frozen=True)
class SinkRing(_Bounded):
    """The first `sinks` tokens and the last `window` (StreamingLLM, arXiv 2309.17453), positions within the cache.

    Token t sees itself, the window - 1 before it, and the sinks. The ring has `slack` entries more than the window, so
    that a block's first query still finds what its last one has pushed out, and tokens can be taken back. Nothing is
    ever shifted: token i lives in entry sinks + (i - sinks) mod (window + slack).
    """

    sinks: int = 4
    window: int = 1020
    slack: int = 64

    def __post_init__(self) -> None:
        if self.sinks < 0 or self.window < 1 or self.slack < 0:
            raise ValueError(f"{self}: sinks and slack take 0 or more, window 1 or more")

    @property
    def scored(self) -> bool:
        return False

    @property
    def steady(self) -> bool:
        return True

    def plan(self, cache: CacheState) -> Tensor | None:
        return None  # each token's end is known when it comes: see lifetime

    def room(self, cache: CacheState) -> Tensor:
        return torch.full_like(cache.length, NEVER)

    def place(self, cache: CacheState, rows: Tensor, n: int) -> Tensor:
        return self.entry(_indices(cache.length[rows], n))

    def lifetime(self, index: Tensor) -> Tensor:
        return torch.where(index < self.sinks, NEVER, index + self.window) if self.sinks else index + self.window

    def positions(self, cache: CacheState, rows: Tensor, start: Tensor, entry: Tensor) -> Positions:
        last = self.visible - 1  # a query's position in a full cache
        base = (start - last).clamp(min=0)[:, None]
        index = start[:, None] + torch.arange(entry.shape[1], device=start.device)
        born = cache.born[rows]
        key = torch.where(born < self.sinks, born, born - base).clamp(0, self.entries)
        return Positions(key, index - base, index.clamp(max=last))

    def floor(self, high: Tensor) -> Tensor:
        return torch.where(high >= self.entries, high - self.slack, 0)  # the next token's entry may be written to

    def entry(self, index: Tensor) -> Tensor:
        ring = self.sinks + (index - self.sinks) % (self.window + self.slack)
        return torch.where(index < self.sinks, index, ring) if self.sinks else ring

    def seat(self, index: int) -> tuple[int, int]:
        if index < self.sinks:
            return index, NEVER
        return self.sinks + (index - self.sinks) % (self.window + self.slack), index + self.window


@dataclass(frozen=True)
class Window(SinkRing):
    """The last `window` tokens and no sinks: the negative control, which a trained model does not survive."""

    sinks: int = 0


@dataclass(frozen=True)
class KeepAll(SinkRing):
    """Every token, up to `window` of them; then the cache is full. Equal to a cache without bounds."""

    sinks: int = 0
    slack: int = 0

    @property
    def entries(self) -> int:
        return self.window + 1  # one to spare: what is written where the next token would go harms nothing

    @property
    def block(self) -> int:
        return self.window

    @property
    def limit(self) -> int | None:
        return self.window

    def entry(self, index: Tensor) -> Tensor:
        return index

    def seat(self, index: int) -> tuple[int, int]:
        return index, NEVER

    def lifetime(self, index: Tensor) -> Tensor:
        return torch.full_like(index, NEVER)

    def floor(self, high: Tensor) -> Tensor:
        return torch.zeros_like(high)


@dataclass(frozen=True)
class EntropyRetained(_Bounded):
    """The sinks, the last `recent` tokens, and of the others the most surprising (SirLLM, arXiv 2405.12528).

    When sinks + window tokens are held, the `stride` least surprising leave at once, so that what stays depends on the
    tokens alone and not on how they were cut into steps. A token's surprise is -log p(token | those before); it fades
    by the factor `decay` a token, so that with decay < 1 old surprises give way to new ones. An input that is no token
    has no surprise and is the first to leave. Positions are ranks among what is held.
    """

    sinks: int = 4
    window: int = 1020
    recent: int = 256
    stride: int = 64
    slack: int = 64
    decay: float = 1.0

    def __post_init__(self) -> None:
        if min(self.sinks, self.slack) < 0 or self.stride < 1 or self.recent < 1 or not 0 < self.decay <= 1:
            raise ValueError(f"{self}: recent and stride take 1 or more, decay a value over 0 and at most 1")
        if self.recent + self.stride > self.window:
            raise ValueError(f"{self}: a window of {self.window} does not hold recent + stride tokens")

    @property
    def scored(self) -> bool:
        return True

    @property
    def steady(self) -> bool:
        return False

    def plan(self, cache: CacheState) -> Tensor:
        full = self.room(cache) <= 0
        held = cache.held()
        others = held & (cache.born >= self.sinks) & (cache.born < cache.length[:, None] - self.recent)
        # log of surprise * decay^age, without the age of the slot, which all entries share
        worth = cache.score.double().log() - cache.born * math.log(self.decay)
        order = worth.masked_fill(~others, math.inf).argsort(dim=1, stable=True)
        leave = torch.zeros_like(held).scatter_(1, order[:, : self.stride], True)
        return leave & full[:, None]

    def room(self, cache: CacheState) -> Tensor:
        return self.visible - cache.held().sum(1)

    def place(self, cache: CacheState, rows: Tensor, n: int) -> Tensor:
        born, died, index = cache.born[rows], cache.died[rows], _indices(cache.length[rows], n)
        # empty entries first, then those longest gone; the sinks' own entries are kept for them
        age = torch.where(born < 0, -1, torch.where(died <= cache.length[rows, None], died, NEVER))
        age[:, : self.sinks] = NEVER
        free = age.argsort(dim=1, stable=True)[:, :n]
        ahead = (index[:, :1] < self.sinks) * (self.sinks - index[:, :1])  # sinks still to come take no free entry
        turn = (torch.arange(n, device=born.device) - ahead).clamp(min=0)
        return torch.where(index < self.sinks, index, free.gather(1, turn))

    def entry(self, index: Tensor) -> Tensor:
        raise ValueError("where a token lives depends on what has been kept; ask for its place when it comes")

    def seat(self, index: int) -> tuple[int, int]:
        raise ValueError("where a token lives depends on what has been kept; ask for its place when it comes")

    def lifetime(self, index: Tensor) -> Tensor:
        return torch.full_like(index, NEVER)

    def positions(self, cache: CacheState, rows: Tensor, start: Tensor, entry: Tensor) -> Positions:
        born = cache.born[rows]
        seen = (born >= 0) & (cache.died[rows] > start[:, None])
        order = torch.where(seen, born, NEVER).argsort(dim=1, stable=True)
        rank = torch.empty_like(order)
        rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
        query = rank.gather(1, entry)
        return Positions(rank, query, query)

    def floor(self, high: Tensor) -> Tensor:
        return (high - self.slack).clamp(min=0)


def _indices(length: Tensor, n: int) -> Tensor:
    return length[:, None] + torch.arange(n, device=length.device)
