"""The stage that runs a decoder on a key-value cache: tokens or embeddings in, hidden states out.

The engine holds the state and asks `Decoder.logits` for the scores it needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from vivavoce.kernels.registry import cache_attention
from vivavoce.kernels.rotary import rotary_table
from vivavoce.streaming.cache_policy import CachePolicy
from vivavoce.streaming.eight_bits import Kept
from vivavoce.streaming.sink_cache import Block, CacheState, Group, OneEach
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .decoder import Attend, Decoder
from .lean import Lean, hide
from .turns import Turns, turn


@dataclass(frozen=True, eq=False)
class DecoderState(State):
    """cache: what is still seen; hidden: (slots, slack + 1, width) the newest tokens' hidden states by index, from
    which the next token's surprise follows, or (slots, 0, width) when the policy asks for none."""

    cache: CacheState
    hidden: Tensor


class LanguageModel:
    """A `Stage`: tokens (slots, n) or embeddings (slots, n, width) in, hidden states (slots, n, width) out.

    Exact for any split into steps and any company. Its rows are worked on packed: padding costs nothing. kept: keys and
    values in 8 bits, which takes a quarter of the memory and more time, and is off by what `vivavoce bench backbone`
    prints.
    """

    spec = StageSpec(Fraction(1), Fraction(1))

    def __init__(self, decoder: Decoder, policy: CachePolicy, *, kept: Kept | None = None) -> None:
        self.decoder, self.policy, self.kept = decoder, policy, kept
        weight = decoder.norm.weight
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        frequencies = decoder.config.frequencies().to(weight.device)
        self.table = rotary_table(frequencies, policy.entries + 1).to(wide)
        self.turns = Turns(frequencies, wide)
        # on a GPU turning is part of the kernel; of half precision it would keep too little
        self.turned = policy.steady and weight.device.type == "cpu" and weight.dtype == wide and kept is None
        self.lean = Lean(decoder, policy, self.turns) if self.turned else None

    def init_state(self, slots: int) -> DecoderState:
        c, like = self.decoder.config, self.decoder.norm.weight.detach()
        cache = CacheState.empty(
            slots,
            self.policy,
            layers=c.layers,
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            like=like,
            turned=self.turned,
            kept=self.kept,
        )
        return DecoderState(cache, like.new_zeros(slots, self.policy.slack + 1 if self.policy.scored else 0, c.width))

    @torch.no_grad()
    def step(
        self, x: Tensor, state: DecoderState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Nothing is held back, so `final` changes nothing. Raises CacheOverflow, with nothing changed, when the policy
        evicts none and a row has no room."""
        state.cache.check_room(self.policy, valid)
        out = state.hidden.new_zeros(*x.shape[:2], self.decoder.config.width)
        done = self._decode_singles(x, state, valid, out)
        while True:
            left = valid - done
            if not bool((left > 0).any()):
                return out, valid
            state.cache.evict(self.policy.plan(state.cache), left > 0)
            take = torch.minimum(left, self.policy.room(state.cache)).clamp(max=self.policy.block)
            slot, column = _packed(take, done)
            hidden = self.block(x[slot, column], state, take)
            out[slot, column] = hidden
            done = done + take

    def _decode_singles(self, x: Tensor, state: DecoderState, valid: Tensor, out: Tensor) -> Tensor:
        """The short way for rows of one token, unless they are strewn too thinly; (slots,) how many were done."""
        rows = [i for i, n in enumerate(valid.tolist()) if n == 1] if self.policy.steady else []
        if not rows or (span := rows[-1] + 1 - rows[0]) > 2 * len(rows):
            return torch.zeros_like(valid)
        first = rows[0]
        active = None if span == len(rows) else valid[first : first + span] == 1
        hidden = self.decode(x[first : first + span, 0], state, active, first)
        out[first : first + span, 0] = hidden if active is None else torch.where(active[:, None], hidden, 0)
        return (valid == 1).long()

    @torch.no_grad()
    def decode(
        self, x: Tensor, state: DecoderState, active: Tensor | None = None, first: int = 0, used: int | None = None
    ) -> Tensor:
        """One token for each active slot from `first` on: x (n,) or (n, width), active (n,) bool, None for all ->
        (n, width), what inactive rows give being meaningless. The policy must be steady. used: as for
        `CacheState.append_one`."""
        new = state.cache.append_one(self.policy, first, len(x), active, used)
        if self.lean is not None:
            return self.lean(x, state.cache, new)
        return self.decoder.run(x, self._decode_plain(state.cache, new))

    def _decode_plain(self, cache: CacheState, new: OneEach) -> Attend:
        used, end, device = new.used, new.first + new.n, cache.life.device
        slots = torch.arange(new.first, end, device=device)
        index, entry = new.tensor(new.index, device), new.tensor(new.entry, device)
        positions = self.policy.positions(cache, slots, index, entry[:, None])
        positions = positions._replace(key=positions.key[:, :used])
        visible = slots.new_ones((new.n, used), dtype=torch.bool) if new.visible is None else new.visible

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.write_one(layer, new, k, v)
            keys, values = cache.read(layer, slice(new.first, end), used)
            return cache_attention(
                q[:, None], keys, values, self.table, *positions, visible[:, None], self.policy.sinks
            )[:, 0]

        return attend

    def block(self, x: Tensor, state: DecoderState, take: Tensor) -> Tensor:
        """One block, packed: x (tokens,) or (tokens, width) of take (slots,) tokens a slot -> (tokens, width)."""
        cache = state.cache
        block = cache.append(self.policy, take)
        angles = self.turns(block.index) if self.turned else None
        ways = [(group, self._seen(cache, group)) for group in block.groups]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            heads, both = q.shape[1], q if angles is None else turn(torch.cat((q, k), 1), angles)
            cache.write(layer, block, k, v, *(() if angles is None else (both[:, heads:],)))
            out = torch.empty_like(q)
            for group, seen in ways:
                if seen is None:
                    y = self._far(layer, q, cache, group)
                else:
                    y = _near(layer, both[:, :heads], cache, group, seen)
                out[group.packed] = y[group.row, group.column]
            return out

        hidden = self.decoder.run(x, attend)
        if self.policy.scored:
            cache.rate(block, self._surprise(x, hidden, state.hidden, block))
        return hidden

    def _seen(self, cache: CacheState, group: Group) -> Tensor | None:
        """What is added to the scores of turned keys, (rows, 1, n, used); None where those will not do, because queries
        see the sinks from another place than the rest."""
        if not self.turned or (self.policy.sinks and int(cache.high[group.rows].max()) >= self.policy.visible):
            return None
        return hide(group.visible, self.table.dtype)[:, None]

    def _far(self, layer: int, q: Tensor, cache: CacheState, group: Group) -> Tensor:
        k, v = cache.read(layer, _slots(group, cache), group.visible.shape[2])
        return cache_attention(_padded(q, group), k, v, self.table, *group.positions, group.visible, self.policy.sinks)

    def _surprise(self, x: Tensor, hidden: Tensor, newest: Tensor, block: Block) -> Tensor:
        """-log p of each token given those before it, (tokens,); 0 for embeddings. Remembers the hidden states."""
        first = torch.ones_like(block.slot, dtype=torch.bool)
        first[1:] = block.slot[1:] != block.slot[:-1]
        before = torch.where(first[:, None], newest[block.slot, (block.index - 1) % newest.shape[1]], hidden.roll(1, 0))
        newest[block.slot, block.index % newest.shape[1]] = hidden
        if x.is_floating_point():
            return torch.zeros_like(block.index, dtype=torch.float32)
        surprise = F.cross_entropy(self.decoder.logits(before), x, reduction="none")
        return torch.where(block.index > 0, surprise, math.log(self.decoder.config.vocabulary))


def _packed(take: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
    """(slot, column) of the take[i] items of each row that follow its first done[i], row by row."""
    slot = torch.arange(len(take), device=take.device).repeat_interleave(take)
    within = torch.arange(len(slot), device=take.device) - (take.cumsum(0) - take)[slot]
    return slot, done[slot] + within


def _near(layer: int, q: Tensor, cache: CacheState, group: Group, seen: Tensor) -> Tensor:
    """(rows, n, heads, D) of queries and keys that are turned already."""
    slots, used = _slots(group, cache), group.visible.shape[2]
    values, keys = cache.kept[slots, layer, 1:, :, :used].unbind(1)
    queries = _padded(q, group).transpose(1, 2)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, enable_gqa=True).transpose(1, 2)


def _padded(q: Tensor, group: Group) -> Tensor:
    """The group's tokens of q (tokens, heads, D) as (rows, n, heads, D)."""
    padded = q.new_zeros(len(group.rows), group.n, *q.shape[1:])
    padded[group.row, group.column] = q[group.packed]
    return padded


def _slots(group: Group, cache: CacheState) -> slice | Tensor:
    """The group's slots: a slice, hence no copy, when those are all."""
    return slice(None) if len(group.rows) == len(cache.length) else group.rows
