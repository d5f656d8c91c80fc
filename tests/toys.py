"""Small exact stages (integers in, integers out) for the tests of the streaming core, each with its plain-Python twin.

They keep to the contract of `Stage` and complain when a caller does not: a row flushed twice or fed after its end, or a
chunk that is not whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from vivavoce.streaming.buffers import count_mask
from vivavoce.streaming.chain import Chain
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

INT = torch.zeros((), dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class ToyState(State):
    """memory: (slots,) what the row remembers; ended: (slots,) how often it was flushed."""

    memory: Tensor
    ended: Tensor

    @classmethod
    def fresh(cls, slots: int) -> ToyState:
        return cls(torch.zeros(slots, dtype=torch.int64), torch.zeros(slots, dtype=torch.int64))

    def check_and_end_(self, valid: Tensor, final: Tensor) -> None:
        late = (self.ended > 0) & ((valid > 0) | final)
        assert not late.any(), f"rows {late.nonzero()[:, 0].tolist()} were fed or flushed after their end"
        self.ended.add_(final.long())


class Sum:
    """Running sums, one an input, and at the end minus the total."""

    spec = StageSpec(Fraction(1), Fraction(1))

    def init_state(self, slots: int) -> ToyState:
        return ToyState.fresh(slots)

    def step(self, x: Tensor, state: ToyState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        state.check_and_end_(valid, final)
        x = x * count_mask(valid, x.shape[1])
        y = torch.nn.functional.pad(state.memory[:, None] + x.cumsum(1), (0, 1), value=777)  # padding that would show
        state.memory.add_(x.sum(1))
        y[final, valid[final]] = -state.memory[final]
        return y, valid + final

    @staticmethod
    def plain(items: Sequence[int], lookahead: int) -> list[int]:
        return [sum(items[: i + 1]) for i in range(len(items))] + [-sum(items)]


class Groups:
    """One output for `size` inputs, which depends on the chunk it lies in and on the chunk before."""

    def __init__(self, size: int, head: int) -> None:
        self.spec = StageSpec(Fraction(size), Fraction(1), chunk=size, head=head)

    def init_state(self, slots: int) -> ToyState:
        return ToyState.fresh(slots)

    def step(self, x: Tensor, state: ToyState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        state.check_and_end_(valid, final)
        size = self.spec.chunk_items(lookahead)
        whole = (valid % size == 0) | final
        assert whole.all(), f"{valid.tolist()} items are no whole chunks of {size}, and the rows go on"
        rows = []
        for i, n in enumerate(valid.tolist()):
            outputs, memory = self._chunks(x[i, :n].tolist(), int(state.memory[i]), size)
            state.memory[i] = memory
            rows.append(torch.tensor(outputs, dtype=torch.int64))
        return torch.nn.utils.rnn.pad_sequence(rows, True, 777), torch.tensor([len(row) for row in rows])

    def _chunks(self, items: list[int], memory: int, size: int) -> tuple[list[int], int]:
        out = []
        for start in range(0, len(items), size):
            chunk = items[start : start + size]
            groups = [chunk[j : j + self.spec.chunk] for j in range(0, len(chunk), self.spec.chunk)]
            out += [sum(group) + 5 * max(chunk) + memory for group in groups]
            memory = len(chunk) * chunk[0] % 1000
        return out, memory

    def plain(self, items: Sequence[int], lookahead: int) -> list[int]:
        return self._chunks([0] * self.spec.head + list(items), 0, self.spec.chunk_items(lookahead))[0]


class Labels(NamedTuple):
    value: Tensor
    index: Tensor


class Even:
    """Only the even values, each with its place in the stream; at the end (-1, length)."""

    spec = StageSpec(Fraction(1), Fraction(1))

    def init_state(self, slots: int) -> ToyState:
        return ToyState.fresh(slots)

    def step(self, x: Tensor, state: ToyState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Labels, Tensor]:
        state.check_and_end_(valid, final)
        rows = []
        for i, n in enumerate(valid.tolist()):
            at = int(state.memory[i])
            row = [(v, at + j) for j, v in enumerate(x[i, :n].tolist()) if v % 2 == 0]
            rows.append(torch.tensor(row + [(-1, at + n)] * bool(final[i]), dtype=torch.int64).reshape(-1, 2))
        state.memory.add_(valid)
        y = torch.nn.utils.rnn.pad_sequence(rows, True, 777)
        return Labels(y[..., 0], y[..., 1]), torch.tensor([len(row) for row in rows])

    @staticmethod
    def plain(items: Sequence[int], lookahead: int) -> list[tuple[int, int]]:
        return [(v, i) for i, v in enumerate(items) if v % 2 == 0] + [(-1, len(items))]


def toy_stages(*, labels: bool = False) -> list[Sum | Groups | Even]:
    """Plain and chunked stages taking turns, with and without a head; the last one's outputs are tuples if asked."""
    return [Sum(), Groups(2, 1), Sum(), Groups(3, 0), *([Even()] if labels else [])]


def toy_chain(*, block: int = 64, labels: bool = False) -> Chain:
    stages = toy_stages(labels=labels)
    return Chain(stages, item_shapes=[()] * len(stages), like=INT, max_lookahead=9, block=block)


def plain(items: Sequence[int], lookahead: int, *, labels: bool = False) -> list[int] | list[tuple[int, int]]:
    """What `toy_chain` must give, computed on lists."""
    y: list[int] = list(items)
    for stage in toy_stages(labels=labels):
        y = stage.plain(y, lookahead)  # type: ignore[assignment]
    return y
