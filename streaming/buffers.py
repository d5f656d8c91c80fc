"""The two ways a stage remembers input: the last few items (`shift_in_`), and items that wait for a chunk (`Fifo`).

Both are ragged: each slot has its own number of new items, given by `valid`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .state import State


def shift_in_(memory: Tensor, x: Tensor, valid: Tensor | None) -> Tensor:
    """Append x to a sliding memory and return the two joined.

    memory: (slots, kept, ...), oldest first, overwritten with the last `kept` items seen so far.
    x: (slots, n, ...); valid: (slots,) how many of the n count, from the left; None: all of every row, which is faster.
    Returns (slots, kept + n, ...): row i holds its memory, then its items, then whatever x was padded with.
    """
    joined = torch.cat((memory, x), dim=1)
    kept, n = memory.shape[1], x.shape[1]
    if kept == 0 or n == 0:
        return joined
    if valid is None:
        memory.copy_(joined.narrow(1, n, kept))
    else:
        memory.copy_(take_items(joined, valid[:, None] + torch.arange(kept, device=x.device)))
    return joined


def take_items(x: Tensor, index: Tensor) -> Tensor:
    """x: (slots, n, ...), index: (slots, m) -> (slots, m, ...), row by row."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]


def count_mask(count: Tensor, n: int) -> Tensor:
    """(slots, n) bool: item j of row i is one of its first count[i]."""
    return torch.arange(n, device=count.device) < count[:, None]


@dataclass(frozen=True, eq=False)
class Fifo(State):
    """Items that wait, oldest first. items: (slots, capacity, ...); count: (slots,) int64."""

    items: Tensor
    count: Tensor

    @classmethod
    def empty(cls, slots: int, capacity: int, shape: tuple[int, ...], like: Tensor, *, head: int = 0) -> Self:
        """`head` items of zeros wait from the start (the part of a first chunk that lies before the stream)."""
        items = torch.zeros((slots, capacity, *shape), dtype=like.dtype, device=like.device)
        return cls(items, torch.full((slots,), head, dtype=torch.int64, device=like.device))

    def push_(self, x: Tensor, valid: Tensor) -> None:
        """x: (slots, n, ...), of which valid[i] join the queue; raises ValueError when they do not fit."""
        if x.shape[1] == 0:
            return
        if int((self.count + valid).max()) > self.items.shape[1]:
            raise ValueError(f"{int((self.count + valid).max())} items do not fit a queue of {self.items.shape[1]}")
        row, item = count_mask(valid, x.shape[1]).nonzero(as_tuple=True)
        self.items[row, self.count[row] + item] = x[row, item]
        self.count.add_(valid)

    def pop_(self, n: int, taken: Tensor) -> Tensor:
        """The first n places (slots, n, ...) of the queue, of which taken[i] (at most count[i]) leave it; the rest of
        row i is padding and is zero."""
        keep = count_mask(taken, n).reshape(*taken.shape, n, *(1,) * (self.items.dim() - 2))
        out = torch.where(keep, self.items[:, :n], 0)
        self.count.sub_(taken)
        if left := self._most(self.count):
            index = taken[:, None] + torch.arange(left, device=taken.device)
            self.items[:, :left] = take_items(self.items, index.clamp_(max=self.items.shape[1] - 1))
        return out

    def _most(self, count: Tensor) -> int:
        """Places in use; on a GPU, whose answer would have to be waited for, all there are."""
        return int(count.max()) if count.device.type == "cpu" and len(count) else self.items.shape[1]

    def _copy(self, dst: Tensor, src: Self, src_slots: Tensor) -> None:
        """What lies past the items that wait is nothing."""
        count = src.count.index_select(0, src_slots.to(src.count.device))
        used = src._most(count)
        items = src.items[:, :used].index_select(0, src_slots.to(src.items.device))
        self.items[:, :used].index_copy_(0, dst.to(self.items.device), items.to(self.items.device))
        self.count.index_copy_(0, dst.to(self.count.device), count.to(self.count.device))

    def take(self, slots: Tensor) -> Self:
        index = slots.to(self.count.device)
        count = self.count.index_select(0, index)
        items = self.items.new_zeros((len(index), *self.items.shape[1:]))
        used = self._most(count)
        items[:, :used] = self.items[:, :used].index_select(0, index)
        return type(self)(items, count)
