"""Keys and values of the tokens a language model still sees: fixed memory for sessions of any length.

Keys are stored before rotary embedding and nothing is ever moved: each entry knows the index of its token and when that
token leaves, and a policy (cache_policy.py) says at which positions it is seen. The model appends a `Block` of tokens,
writes each layer's keys and values, and attends over the entries; the caller owns the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from .cache_policy import NEVER, CachePolicy, Positions
from .eight_bits import DTYPES, Kept, pack, unpack
from .errors import VivaVoceError
from .state import State


class CacheOverflow(VivaVoceError, ValueError):
    """More tokens than the cache can show the model at once."""


class RollbackTooFar(VivaVoceError, ValueError):
    """Tokens cannot be taken back because what they pushed out has been overwritten."""


@dataclass(frozen=True, eq=False)
class Held:
    """What `CacheState.gather` found, oldest token first. keys, values: (slots, m, kv_heads, D), one tensor a layer;
    index: (slots, m) the tokens' indices; count: (slots,) how many of the m are real, the others being padding."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    index: Tensor
    count: Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """Rows of a block that attend together. rows: (r,) slots; n: their most tokens; visible: (r, n, used), the entries
    in use being the first ones."""

    rows: Tensor
    n: int
    positions: Positions
    visible: Tensor
    row: Tensor  # (t,) for each of the group's tokens its row of `rows`,
    column: Tensor  # its place in that row,
    packed: Tensor  # and its place among the block's tokens


@dataclass(frozen=True, eq=False)
class Block:
    """New tokens, packed: slot by slot, only those that count. slot, entry, index: (tokens,) int64."""

    slot: Tensor
    entry: Tensor
    index: Tensor
    groups: tuple[Group, ...]


@dataclass(frozen=True, eq=False)
class OneEach:
    """One new token for each active one of some neighbouring slots. slots, row, index: (n,) int64, what inactive ones
    would have had, row being the entry with slots and entries as one dimension; visible: (n, used) what the new tokens
    see, None for everything, the entries in use being the first ones."""

    slots: Tensor
    row: Tensor
    index: Tensor
    used: int
    visible: Tensor | None


@dataclass(frozen=True, eq=False)
class CacheState(State):
    """One store for every policy.

    keys, values: a tensor a layer, (slots, entries, kv_heads, D), keys before rotary embedding.
    turned: the same of keys as whoever attends has turned them, or none.
    key_scales, value_scales: (slots, entries, kv_heads, 1) a layer where keys and values are kept in 8 bits, or none.
    born: (slots, entries) index of the token in the entry, -1 when empty; died: the first query that no longer sees it.
    score: (slots, entries) each token's surprise, or (slots, 0) when the policy asks for none.
    length: (slots,) tokens so far; high: (slots,) the most there ever were. All int64.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    turned: tuple[Tensor, ...]
    key_scales: tuple[Tensor, ...]
    value_scales: tuple[Tensor, ...]
    born: Tensor
    died: Tensor
    score: Tensor
    length: Tensor
    high: Tensor

    @classmethod
    def empty(
        cls,
        slots: int,
        policy: CachePolicy,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        like: Tensor,
        turned: bool = False,
        kept: Kept | None = None,
    ) -> Self:
        """`like` gives dtype and device; turned: keep turned keys too; kept: keys and values in so many bits."""
        shape, device = (slots, policy.entries), like.device

        def tensors(wanted: bool, width: int = head_dim, dtype: torch.dtype = like.dtype) -> tuple[Tensor, ...]:
            n = layers if wanted else 0
            return tuple(like.new_zeros(*shape, kv_heads, width, dtype=dtype) for _ in range(n))

        dtype = DTYPES[kept] if kept else like.dtype
        return cls(
            tensors(True, dtype=dtype),
            tensors(True, dtype=dtype),
            tensors(turned),
            tensors(kept is not None, 1),
            tensors(kept is not None, 1),
            born=torch.full(shape, -1, device=device),
            died=torch.zeros(shape, dtype=torch.int64, device=device),
            score=torch.zeros(slots, policy.entries if policy.scored else 0, device=device),
            length=torch.zeros(slots, dtype=torch.int64, device=device),
            high=torch.zeros(slots, dtype=torch.int64, device=device),
        )

    def _copy(self, dst: Tensor, src: Self, src_slots: Tensor) -> None:
        """Entries fill up from the first, so past the longest that ever was in either there is nothing to copy."""
        high = torch.cat((src.high[src_slots], self.high[dst].to(src.high.device)))
        used = int(high.max()) + 1 if len(dst) else 0  # idle slots are written to where their next token would go
        State._copy(self._first(used), dst, src._first(used), src_slots)

    def _first(self, used: int) -> Self:
        """The first entries of every slot, sharing memory."""

        def first(x: Any) -> Any:
            return tuple(y[:, :used] for y in x) if isinstance(x, tuple) else x[:, :used]

        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{n: x if n in ("length", "high") else first(x) for n, x in values.items()})

    def held(self) -> Tensor:
        """(slots, entries) true for what the next token will see, should nothing be evicted before."""
        length = self.length[:, None]
        return (self.born >= 0) & (self.died > length)

    def append(self, policy: CachePolicy, take: Tensor) -> Block:
        """Make room for take (slots,) new tokens a slot, at most `policy.block` and `policy.room` of them.

        Their keys and values are to be written with `write` before anybody attends, and rated with `rate` when the
        policy is scored. Raises CacheOverflow, with nothing changed, past `policy.limit`.
        """
        self.check_room(policy, take)
        start = self.length.clone()
        rows = take.nonzero()[:, 0]
        n = int(take.max()) if len(rows) else 0
        real = torch.arange(n, device=take.device) < take[rows, None]
        place = policy.place(self, rows, n)
        row, column = real.nonzero(as_tuple=True)
        slot, entry, index = rows[row], place[row, column], start[rows][row] + column
        self.born[slot, entry] = index
        self.died[slot, entry] = policy.lifetime(index)
        self.length.add_(take)
        torch.maximum(self.high, self.length, out=self.high)
        return Block(slot, entry, index, self._groups(policy, rows, take[rows], start, place))

    def _groups(
        self, policy: CachePolicy, rows: Tensor, take: Tensor, start: Tensor, place: Tensor
    ) -> tuple[Group, ...]:
        """Decoding rows apart from rows that take many tokens, so that a long one does not pad the others."""
        groups, before = [], take.cumsum(0) - take
        for chosen in (take == 1, take > 1):
            pick = chosen.nonzero()[:, 0]
            if len(pick) == 0:
                continue
            mine, n = rows[pick], int(take[pick].max())
            row, column = (torch.arange(n, device=take.device) < take[pick, None]).nonzero(as_tuple=True)
            query = (start[mine, None] + torch.arange(n, device=take.device))[..., None]
            used = min(int(self.high[mine].max()), policy.entries)  # entries fill up from the first
            born, died = self.born[mine, None, :used], self.died[mine, None, :used]
            visible = (born >= 0) & (born <= query) & (query < died)
            positions = policy.positions(self, mine, start[mine], place[pick, :n])
            positions = positions._replace(key=positions.key[:, :used])
            groups.append(Group(mine, n, positions, visible, row, column, before[pick][row] + column))
        return tuple(groups)

    def append_one(
        self, policy: CachePolicy, first: int, active: Tensor, used: int | None = None, *, every: bool = False
    ) -> OneEach:
        """As `append`, for one token in each of the slots from `first` on that is active (n,) bool; the policy must be
        steady. Nothing depends on the values, so that a CUDA graph can hold it: used, how many entries are looked at,
        is then to be given. every: whether it is known that all are active."""
        n, end = len(active), first + len(active)
        index, slots = self.length[first:end].clone(), torch.arange(first, end, device=active.device)
        row = torch.add(policy.entry(index), slots, alpha=policy.entries)
        for field, value in ((self.born.view(-1), index), (self.died.view(-1), policy.lifetime(index))):
            field.index_copy_(0, row, value if every else torch.where(active, value, field[row]))
        length, high = self.length[first:end].add_(active), self.high[first:end]
        torch.maximum(high, length, out=high)
        if used is None:
            tops = high.tolist()
            used = min(max(tops), policy.entries)
            if every and used <= policy.visible and tops == [used] * n and length.tolist() == tops:
                return OneEach(slots, row, index, used, None)  # all that ever came is still seen
        visible = (self.born[first:end, :used] >= 0) & (self.died[first:end, :used] > index[:, None])
        return OneEach(slots, row, index, used, visible)

    def write_one(self, layer: int, new: OneEach, keys: Tensor, values: Tensor, turned: Tensor | None = None) -> None:
        """As `write`, (n, kv_heads, D) of every slot of `new`, active or not."""
        if self.key_scales:
            keys, scale = pack(keys, self.keys[layer].dtype)
            _put(self.key_scales[layer], new.row, scale)
            values, scale = pack(values, self.values[layer].dtype)
            _put(self.value_scales[layer], new.row, scale)
        _put(self.keys[layer], new.row, keys)
        _put(self.values[layer], new.row, values)
        if turned is not None:
            _put(self.turned[layer], new.row, turned)

    def write(self, layer: int, block: Block, keys: Tensor, values: Tensor, turned: Tensor | None = None) -> None:
        """keys, values, turned: (tokens, kv_heads, D) of the block's tokens, keys before rotary embedding."""
        at = block.slot, block.entry
        if self.key_scales:
            keys, self.key_scales[layer][at] = pack(keys, self.keys[layer].dtype)
            values, self.value_scales[layer][at] = pack(values, self.values[layer].dtype)
        self.keys[layer][at] = keys
        self.values[layer][at] = values
        if turned is not None:
            self.turned[layer][at] = turned

    def read(self, layer: int, slots: slice | Tensor, used: int) -> tuple[Tensor, Tensor]:
        """Keys before rotary embedding and values of the first `used` entries, (slots, used, kv_heads, D)."""
        keys, values = (x[layer][slots, :used] for x in (self.keys, self.values))
        if not self.key_scales:
            return keys, values
        of_keys, of_values = (x[layer][slots, :used] for x in (self.key_scales, self.value_scales))
        return unpack(keys, of_keys), unpack(values, of_values)

    def rate(self, block: Block, surprise: Tensor) -> None:
        """surprise: (tokens,) of the block's tokens, 0 or more."""
        self.score[block.slot, block.entry] = surprise.to(self.score.dtype)

    def evict(self, plan: Tensor | None, rows: Tensor) -> None:
        """The next token no longer sees what plan (slots, entries) marks; only in rows (slots,) bool."""
        if plan is not None:
            leave = plan & rows[:, None] & self.held()
            self.died.copy_(torch.where(leave, self.length[:, None], self.died))

    def rollback(self, policy: CachePolicy, count: Tensor) -> None:
        """Take back the last count (slots,) tokens of each slot, as if they had never come; what they had pushed out
        is seen again. Raises RollbackTooFar, with nothing changed; `policy.slack` tokens are always possible."""
        length = self.length - count
        least = policy.floor(self.high)
        wrong = ((count < 0) | (length < least) & (count > 0) | (length < 0)).nonzero()[:, 0].tolist()
        if wrong:
            slot = wrong[0]
            raise RollbackTooFar(
                f"slot {slot}: {int(count[slot])} of {int(self.length[slot])} tokens cannot be taken back, only "
                f"{int(self.length[slot] - least[slot])}; use a policy with more slack, or start the slot again"
            )
        touched = (count > 0)[:, None]
        late = touched & (self.born >= length[:, None])
        revived = touched & (self.died > length[:, None]) & (self.born >= 0)
        self.died.copy_(torch.where(revived, policy.lifetime(self.born), self.died))
        self.born.masked_fill_(late, -1)
        self.length.copy_(length)

    def fork(self, source: int, slots: Sequence[int]) -> None:
        """Slots become copies of `source`: a shared prefix is computed once."""
        self.copy_slots_(torch.tensor(slots), self, torch.full((len(slots),), source))

    def gather(self) -> Held:
        """What the next token would see, in the order of the tokens."""
        held = self.held()
        count = held.sum(1)
        order = torch.where(held, self.born, NEVER).argsort(dim=1, stable=True)[:, : int(count.max())]
        row = torch.arange(len(order), device=order.device)[:, None]
        whole = [self.read(layer, slice(None), self.born.shape[1]) for layer in range(len(self.keys))]
        return Held(
            tuple(keys[row, order] for keys, _ in whole),
            tuple(values[row, order] for _, values in whole),
            self.born[row, order],
            count,
        )

    def check_room(self, policy: CachePolicy, take: Tensor) -> None:
        """Raises CacheOverflow when take (slots,) more tokens are more than a policy that drops none can hold."""
        if policy.limit is None:
            return
        over = (self.length + take > policy.limit).nonzero()[:, 0].tolist()
        if over:
            slot = over[0]
            raise CacheOverflow(
                f"slot {slot}: {int(self.length[slot])} + {int(take[slot])} tokens do not fit a cache of "
                f"{policy.limit} that drops none; take a longer one, or a policy that evicts"
            )


def _put(store: Tensor, row: Tensor, x: Tensor) -> None:
    """Write x (n, ...) to these rows of a store (slots, entries, ...)."""
    store.view(-1, *x.shape[1:]).index_copy_(0, row, x)
