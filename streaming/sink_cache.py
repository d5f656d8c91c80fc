"""Keys and values of the tokens a language model still sees: fixed memory for sessions of any length.

Keys are stored before rotary embedding and nothing is ever moved: each entry knows the index of its token and when that
token leaves, and a policy (cache_policy.py) says at which positions it is seen. The model appends a `Block` of tokens,
writes each layer's keys and values, and attends over the entries; the caller owns the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

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
    """One new token for each active one of n neighbouring slots from `first` on, and what inactive ones would have had.

    index, entry: (n,) int64, or one number where all are alike and active; to: where keys and values of each layer go,
    as indices (n * parts * kv_heads,) into `CacheState.kept` with all dimensions but the last taken as one, or, where
    all are alike, as memory (n, parts * kv_heads, D); visible: (n, used) what the new tokens see, None for everything,
    the entries in use being the first ones; known: index as numbers, where they were looked at; far: whether one may
    see the sinks from another place than the rest."""

    first: int
    n: int
    index: Tensor | int
    entry: Tensor | int
    to: Sequence[Tensor]
    used: int
    visible: Tensor | None
    known: Sequence[int] | None
    far: bool

    def tensor(self, x: Tensor | int, device: torch.device) -> Tensor:
        """(n,) of index or entry."""
        return x if isinstance(x, Tensor) else torch.full((self.n,), x, device=device)


@dataclass(frozen=True, eq=False)
class CacheState(State):
    """One store for every policy.

    kept: (slots, layers, parts, kv_heads, entries, D), the parts being keys before rotary embedding, values and, where
    whoever attends turns keys once, turned keys. scales: the same with 1 for D where that is in 8 bits, else with 0.
    life: (slots, entries, 2) index of the token in the entry, -1 when empty, and the first query that no longer sees
    it.
    score: (slots, entries) each token's surprise, or (slots, 0) when the policy asks for none.
    counts: (slots, 2) tokens so far, and the most there ever were. life and counts are int64.
    """

    kept: Tensor
    scales: Tensor
    life: Tensor
    score: Tensor
    counts: Tensor

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
        shape, device, n = (slots, layers, 2 + turned, kv_heads, policy.entries), like.device, policy.entries
        return cls(
            like.new_zeros(*shape, head_dim, dtype=DTYPES[kept] if kept else like.dtype),
            like.new_zeros(*shape, 1 if kept else 0),
            life=torch.tensor([-1, 0], device=device).repeat(slots, n, 1),
            score=torch.zeros(slots, n if policy.scored else 0, device=device),
            counts=torch.zeros(slots, 2, dtype=torch.int64, device=device),
        )

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """Before rotary embedding; (slots, kv_heads, entries, D) of each layer."""
        return self.kept[:, :, 0].unbind(1)

    @property
    def values(self) -> tuple[Tensor, ...]:
        return self.kept[:, :, 1].unbind(1)

    @property
    def turned(self) -> tuple[Tensor, ...]:
        """Keys as whoever attends has turned them, or none."""
        return self.kept[:, :, 2].unbind(1) if self.kept.shape[2] > 2 else ()

    @property
    def born(self) -> Tensor:
        return self.life[..., 0]

    @property
    def died(self) -> Tensor:
        return self.life[..., 1]

    @property
    def length(self) -> Tensor:
        return self.counts[:, 0]

    @property
    def high(self) -> Tensor:
        return self.counts[:, 1]

    def _copy(self, dst: Tensor, src: Self, src_slots: Tensor) -> None:
        """Entries fill up from the first, so past the longest that ever was in either there is nothing to copy."""
        high = torch.cat((src.high[src_slots], self.high[dst].to(src.high.device)))
        used = int(high.max()) + 1 if len(dst) else 0  # idle slots are written to where their next token would go
        State._copy(self._first(used), dst, src._first(used), src_slots)

    def _first(self, used: int) -> Self:
        """The first entries of every slot, sharing memory."""
        kept, scales = (x[..., :used, :] for x in (self.kept, self.scales))
        return type(self)(kept, scales, self.life[:, :used], self.score[:, :used], self.counts)

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
        self, policy: CachePolicy, first: int, n: int, active: Tensor | None = None, used: int | None = None
    ) -> OneEach:
        """As `append`, for one token in each of n slots from `first` on that is active (n,) bool, None for all; the
        policy must be steady. used: how many entries are looked at; where it is given nothing depends on the values, so
        that a CUDA graph can hold it."""
        if used is None:
            return self._append_known(policy, first, n, active)
        active = torch.ones(n, dtype=torch.bool, device=self.life.device) if active is None else active
        entries = policy.entries
        counts = self.counts.narrow(0, first, n)
        index, slots = counts.select(1, 0).clone(), torch.arange(first, first + n, device=active.device)
        entry = policy.entry(index)
        at, life = slots * entries + entry, self.life.view(-1, 2)
        new = torch.stack((index, policy.lifetime(index)), 1)
        life.index_copy_(0, at, torch.where(active[:, None], new, life[at]))
        length, high = counts.select(1, 0).add_(active), counts.select(1, 1)
        torch.maximum(high, length, out=high)
        seen = self._seen(first, n, index[:, None], used)
        return OneEach(first, n, index, entry, self._rows(entry, slots), used, seen, None, True)

    def _append_known(self, policy: CachePolicy, first: int, n: int, active: Tensor | None) -> OneEach:
        """`append_one` by numbers: on a CPU, calling operations costs more than counting in Python."""
        counts = self.counts.narrow(0, first, n)
        known = counts.tolist()
        most = max(map(max, known)) + 1  # idle rows may be one token further than they have been
        used, far = min(most, policy.entries), most > policy.visible
        if active is None and known.count(known[0]) == n and known[0][0] == known[0][1]:
            counts.add_(1)
            return self._append_alike(policy, first, [length for length, _ in known], used, far)
        takes = range(n) if active is None else active.nonzero()[:, 0].tolist()
        return self._append_ragged(policy, first, known, takes, used, far)

    def _append_alike(self, policy: CachePolicy, first: int, known: Sequence[int], used: int, far: bool) -> OneEach:
        n, index = len(known), known[0]
        entry, end = policy.seat(index)
        self.life.narrow(0, first, n).select(1, entry).copy_(torch.tensor((index, end)))
        seen = None if not far else self._seen(first, n, index, used)
        if self.scales.shape[-1]:
            slots = torch.arange(first, first + n, device=self.life.device)
            to = self._rows(torch.full_like(slots, entry), slots)
        else:
            to = self.kept.narrow(0, first, n).select(4, entry).flatten(2, 3).unbind(1)
        return OneEach(first, n, index, entry, to, used, seen, known, far)

    def _append_ragged(
        self, policy: CachePolicy, first: int, known: Sequence[Sequence[int]], takes: Sequence[int], used: int,
        far: bool,
    ) -> OneEach:  # fmt: skip
        n, device = len(known), self.life.device
        lengths = [length for length, _ in known]
        seats = [policy.seat(length) for length in lengths]
        index, entry, slots = torch.tensor(
            [lengths, [entry for entry, _ in seats], list(range(first, first + n))], device=device
        ).unbind()
        at = [(first + i) * policy.entries + seats[i][0] for i in takes]
        new = [(lengths[i], seats[i][1]) for i in takes]
        self.life.view(-1, 2).index_copy_(0, *(torch.tensor(x, device=device) for x in (at, new)))
        counts = [(n + 1, max(n + 1, high)) if i in takes else (n, high) for i, (n, high) in enumerate(known)]
        self.counts.narrow(0, first, n).copy_(torch.tensor(counts))
        seen = self._seen(first, n, index[:, None], used)
        return OneEach(first, n, index, entry, self._rows(entry, slots), used, seen, lengths, far)

    def _seen(self, first: int, n: int, index: Tensor | int, used: int) -> Tensor:
        return self.life[first : first + n, :used, 1] > index

    def _rows(self, entry: Tensor, slots: Tensor) -> Sequence[Tensor]:
        layers, parts, heads, entries = self.kept.shape[1:5]
        within = torch.arange(0, layers * parts * heads * entries, entries, device=slots.device)
        base = torch.add(entry, slots, alpha=layers * parts * heads * entries)
        return (base[:, None] + within.view(layers, 1, -1)).flatten(1).unbind()

    def write_one(self, layer: int, new: OneEach, *parts: Tensor) -> None:
        """As `write`: keys, values and perhaps turned keys, (n, kv_heads, D) of every slot of `new`, active or not."""
        x, to = torch.cat(parts, 1), new.to[layer]
        if to.dim() > 1:
            to.copy_(x)
            return
        if self.scales.shape[-1]:
            x, scale = pack(x, self.kept.dtype)
            self.scales.view(-1, 1).index_copy_(0, to, scale.view(-1, 1))
        self.kept.view(-1, x.shape[-1]).index_copy_(0, to, x.view(-1, x.shape[-1]))

    def write(self, layer: int, block: Block, *parts: Tensor) -> None:
        """Keys before rotary embedding, values and, where they are kept, turned keys: (tokens, kv_heads, D) each, of
        the block's tokens."""
        x = torch.stack(parts, 1)
        if self.scales.shape[-1]:
            x, scale = pack(x, self.kept.dtype)
            self.scales[block.slot, layer, :, :, block.entry] = scale
        self.kept[block.slot, layer, :, :, block.entry] = x

    def read(self, layer: int, slots: slice | Tensor, used: int) -> tuple[Tensor, Tensor]:
        """Keys before rotary embedding and values of the first `used` entries, (slots, used, kv_heads, D)."""
        x = self.kept[slots, layer, :2, :, :used]
        if self.scales.shape[-1]:
            x = unpack(x, self.scales[slots, layer, :2, :, :used])
        keys, values = x.transpose(2, 3).unbind(1)
        return keys, values

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
        self.died.masked_fill_(late, 0)
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
