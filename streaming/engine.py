"""Many live sessions in one batch.

An `Engine` owns the state of one stage (usually a whole `Chain`), hands out slots, and steps the sessions that have
input together, grouped by lookahead. It is synchronous and knows nothing of sockets or threads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .errors import BadLookahead, Full, UnknownSlot
from .stage import Stage
from .state import State, slots_tensor

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Slot:
    """One session's place. `epoch` changes when the index is reused, so a late message of a session that has ended
    cannot reach the next one."""

    index: int
    epoch: int


class Engine(Generic[S]):
    """Continuous batching over slots.

    stage: what to run; slots: how many sessions fit at once; max_lookahead: the largest R a session may ask for.
    """

    def __init__(self, stage: Stage[Any, Any, S], slots: int, *, max_lookahead: int = 69) -> None:
        self.stage, self.max_lookahead = stage, max_lookahead
        self.state = stage.init_state(slots)
        self._fresh = stage.init_state(1)
        self._epoch = [0] * slots
        self._lookahead = [0] * slots
        self._free = list(range(slots))[::-1]
        self._ended: set[int] = set()

    def open(self, *, lookahead: int = 0, snapshot: S | None = None) -> Slot:
        """Start a session, fresh or from a snapshot of one slot. Raises Full, StateMismatch, BadLookahead."""
        self._check_lookahead(lookahead)
        if not self._free:
            raise Full(f"all {len(self._epoch)} places are taken; close a session or open an engine with more slots")
        index = self._free[-1]
        self.state.copy_slots_(slots_tensor(index), snapshot or self._fresh, slots_tensor(0))
        self._free.pop()
        self._epoch[index] += 1
        self._lookahead[index] = lookahead
        return Slot(index, self._epoch[index])

    def set_lookahead(self, slot: Slot, lookahead: int) -> None:
        """Takes effect at the session's next chunk. Raises BadLookahead."""
        self._check_lookahead(lookahead)
        self._lookahead[self._index(slot)] = lookahead

    def lookahead(self, slot: Slot) -> int:
        return self._lookahead[self._index(slot)]

    def step(self, feeds: Mapping[Slot, Tensor], final: Collection[Slot] = ()) -> dict[Slot, tuple[Any, int]]:
        """Feed each slot its new items, (n, ...) and any n; slots in `final` end with them.

        Returns for every slot fed its output row, each tensor (m, ...), and m. Raises UnknownSlot, and
        ValueError for feeds of different kinds, before any session is stepped. Should the stage itself fail, sessions
        not in its batch (of one lookahead) are as they were; close those that are.
        """
        missing = [slot for slot in final if slot not in feeds]
        if missing:
            raise UnknownSlot(f"{missing[0]} ends but is not fed; give it an empty tensor")
        groups: dict[int, list[Slot]] = {}
        for slot in sorted(feeds, key=lambda slot: slot.index):  # neighbours in this order need no copy of their state
            groups.setdefault(self._lookahead[self._going(slot)], []).append(slot)
        kinds = {(x.shape[1:], x.dtype, x.device) for x in feeds.values()}
        if len(kinds) > 1:
            raise ValueError(f"the feeds of one step differ in item shape, dtype or device: {kinds}")
        batches = {r: torch.nn.utils.rnn.pad_sequence([feeds[slot] for slot in slots], batch_first=True)
                   for r, slots in groups.items()}
        out: dict[Slot, tuple[Any, int]] = {}
        for lookahead, slots in groups.items():
            lengths = [len(feeds[slot]) for slot in slots]
            out |= self._step_group(slots, batches[lookahead], lengths, final, lookahead)
        return out

    def _step_group(self, slots: list[Slot], x: Tensor, lengths: list[int], final: Collection[Slot],
                    lookahead: int) -> dict[Slot, tuple[Any, int]]:
        valid = torch.tensor(lengths, device=x.device)
        ends = torch.tensor([slot in final for slot in slots], device=x.device)
        first, n = slots[0].index, len(slots)
        neighbours = slots[-1].index - first == n - 1  # they are in order
        index = slots_tensor(*(slot.index for slot in slots))
        state = self.state.narrow(first, n) if neighbours else self.state.take(index)
        y, count = self.stage.step(x, state, valid, ends, lookahead)
        if not neighbours:
            self.state.copy_slots_(index, state, torch.arange(n))
        self._ended |= {slot.index for slot in slots if slot in final}
        return {slot: (_row(y, i, n), n) for i, (slot, n) in enumerate(zip(slots, count.tolist(), strict=True))}

    def snapshot(self, slot: Slot) -> S:
        """The session as a state of one slot, its own copy: keep it, save it, or open another session with it.

        Raises UnknownSlot, also for a session that has ended: nothing could go on from there.
        """
        return self.state.take(slots_tensor(self._going(slot)))

    def close(self, slot: Slot) -> None:
        index = self._index(slot)
        self._epoch[index] += 1
        self._ended.discard(index)
        self._free.append(index)

    @property
    def free(self) -> int:
        return len(self._free)

    def _index(self, slot: Slot) -> int:
        if not 0 <= slot.index < len(self._epoch) or self._epoch[slot.index] != slot.epoch or slot.index in self._free:
            raise UnknownSlot(f"{slot} is not open")
        return slot.index

    def _going(self, slot: Slot) -> int:
        """The index of a session that has not ended."""
        index = self._index(slot)
        if index in self._ended:
            raise UnknownSlot(f"{slot} has ended; close it and open another")
        return index

    def _check_lookahead(self, lookahead: int) -> None:
        if not 0 <= lookahead <= self.max_lookahead:
            raise BadLookahead(f"lookahead {lookahead} is outside 0 to {self.max_lookahead} frames; give one inside")


def _row(y: Any, i: int, n: int) -> Any:
    if isinstance(y, Tensor):
        return y[i, :n]
    return type(y)(*(field[i, :n] for field in y))
