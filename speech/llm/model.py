"""The decoder-only transformer of Qwen2, Qwen3 and Llama, and the stage that runs it on a key-value cache.

Tokens or embeddings come in, hidden states go out, and `logits` turns the few that are needed into scores of the next
token. Weights come from hub.py or a trainer; the engine holds the state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.kernels.registry import cache_attention, rms_norm, rotary, swiglu
from vivavoce.kernels.rotary import rotary_table
from vivavoce.streaming.cache_policy import CachePolicy
from vivavoce.streaming.sink_cache import Block, CacheState, Group, OneEach
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .config import LlmConfig
from .turns import Turns, turn

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer number, q (..., heads, D), k and v (..., kv_heads, D) not yet rotated -> (..., heads, D)."""


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.qkv = nn.Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_dim, config.qkv_bias)
        self.out = nn.Linear(config.heads * config.head_dim, config.width, config.out_bias)
        self.q_norm = RmsNorm(config.head_dim, config.eps) if config.qk_norm else nn.Identity()
        self.k_norm = RmsNorm(config.head_dim, config.eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=-2)
        y: Tensor = self.out(attend(layer, self.q_norm(q), self.k_norm(k), v).flatten(-2))
        return y


class Layer(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.norm_attention = RmsNorm(config.width, config.eps)
        self.attention = Attention(config)
        self.norm_mlp = RmsNorm(config.width, config.eps)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, config.mlp_bias)
        self.down = nn.Linear(config.hidden, config.width, config.mlp_bias)

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        x = x + self.attention(self.norm_attention(x), layer, attend)
        y: Tensor = x + self.down(swiglu(self.gate_up(self.norm_mlp(x))))
        return y


class Decoder(nn.Module):
    """The weights. `forward` is one pass without a cache, for training; `LanguageModel` runs it on one."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.width, config.eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

    @classmethod
    def empty(cls, config: LlmConfig) -> Decoder:
        """Without weights; `weights.fit` gives it some."""
        with torch.device("meta"):
            return cls(config)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states of whole sequences: x (batch, n) tokens or (batch, n, width) embeddings -> (batch, n, width).
        Every position sees all before it."""
        table = rotary_table(self.config.frequencies(), x.shape[1]).to(self.norm.weight)
        positions = torch.arange(x.shape[1], device=x.device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (t.transpose(1, 2) for t in (rotary(q, table, positions), rotary(k, table, positions), v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

        return self.run(x, attend)

    def run(self, x: Tensor, attend: Attend) -> Tensor:
        """All layers over tokens (...) or embeddings (..., width); attention is the caller's."""
        x = x if x.is_floating_point() else self.embed(x)
        for i, layer in enumerate(self.layers):
            x = layer(x, i, attend)
        y: Tensor = self.norm(x)
        return y

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary)."""
        return F.linear(hidden, self.embed.weight if self.head is None else self.head.weight)

    @torch.no_grad()
    def extend_vocabulary(self, tokens: int, *, seed: int = 0) -> None:
        """Append `tokens` rows for speech and control tokens: drawn around the mean of those there, with their spread,
        so that before training none stands out. The rows that were there stay as they are."""
        draw = torch.Generator().manual_seed(seed)
        tables: list[nn.Embedding | nn.Linear] = [self.embed] if self.head is None else [self.embed, self.head]
        for module in tables:
            old = module.weight
            noise = torch.randn(tokens, old.shape[1], generator=draw).to(old)
            module.weight = nn.Parameter(torch.cat((old, old.mean(0) + noise * old.std(0))), old.requires_grad)
        self.config = dataclasses.replace(self.config, vocabulary=self.config.vocabulary + tokens)
        self.embed.num_embeddings = self.config.vocabulary
        if self.head is not None:
            self.head.out_features = self.config.vocabulary


class Projector(nn.Module):
    """Encoder frames (..., frames_width) -> embeddings (..., width) that stand among the tokens'."""

    def __init__(self, frames_width: int, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(frames_width, width), nn.Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(frames)))
        return y


@dataclass(frozen=True, eq=False)
class DecoderState(State):
    """cache: what is still seen; hidden: (slots, slack + 1, width) the newest tokens' hidden states by index, from
    which the next token's surprise follows, or (slots, 0, width) when the policy asks for none."""

    cache: CacheState
    hidden: Tensor


class LanguageModel:
    """A `Stage`: tokens (slots, n) or embeddings (slots, n, width) in, hidden states (slots, n, width) out.

    Exact for any split into steps and any company. Its rows are worked on packed: padding costs nothing.
    """

    spec = StageSpec(Fraction(1), Fraction(1))

    def __init__(self, decoder: Decoder, policy: CachePolicy) -> None:
        self.decoder, self.policy = decoder, policy
        weight = decoder.norm.weight
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        frequencies = decoder.config.frequencies().to(weight.device)
        self.table = rotary_table(frequencies, policy.entries + 1).to(wide)
        self.turns = Turns(frequencies, wide)
        self.turned = policy.steady and weight.device.type == "cpu"  # on a GPU turning is part of the kernel

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
        active = valid[first : first + span] == 1
        hidden = self.decode(x[first : first + span, 0], state, active, first)
        out[first : first + span, 0] = hidden if span == len(rows) else torch.where(active[:, None], hidden, 0)
        return (valid == 1).long()

    def decode(
        self, x: Tensor, state: DecoderState, active: Tensor, first: int = 0, used: int | None = None
    ) -> Tensor:
        """One token for each active slot from `first` on: x (n,) or (n, width), active (n,) bool -> (n, width), what
        inactive rows give being meaningless. The policy must be steady. used: as for `CacheState.append_one`."""
        cache, policy = state.cache, self.policy
        new = cache.append_one(policy, first, active, used)
        attend = self._decode_turned(cache, new, first) if self.turned else self._decode_plain(cache, new, first)
        return self.decoder.run(x, attend)

    def _decode_plain(self, cache: CacheState, new: OneEach, first: int) -> Attend:
        positions = self.policy.positions(cache, new.slots, new.index, new.entry[:, None])
        n, used = new.visible.shape
        positions, end = positions._replace(key=positions.key[:, :used]), first + n

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.write(layer, new, k, v)
            keys, values = (x[layer][first:end, :used] for x in (cache.keys, cache.values))
            return cache_attention(
                q[:, None], keys, values, self.table, *positions, new.visible[:, None], self.policy.sinks
            )[:, 0]

        return attend

    def _decode_turned(self, cache: CacheState, new: OneEach, first: int) -> Attend:
        """Attention over keys turned by index. Sinks stay near while the stream moves on: they are turned anew."""
        n, used = new.visible.shape
        end = first + n
        angles = self.turns(new.index)
        self._bring_sinks(cache, new, first, end)
        dtype = cache.turned.dtype  # the least number rather than -inf: a row that sees nothing stays finite
        bias = torch.zeros(n, used, dtype=dtype).masked_fill(~new.visible, torch.finfo(dtype).min)[:, None, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            both = turn(torch.cat((q, k), 1), angles)
            turned = both[:, q.shape[1] :]
            cache.write(layer, new, k, v, turned)
            keys = cache.turned[first:end, layer, :used].transpose(1, 2)
            values = cache.values[layer][first:end, :used].transpose(1, 2)
            queries = both[:, : q.shape[1]].unflatten(1, (k.shape[1], -1))  # those that share a head are its queries
            y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
            return y.flatten(1, 2)

        return attend

    def _bring_sinks(self, cache: CacheState, new: OneEach, first: int, end: int) -> None:
        sinks, last = self.policy.sinks, self.policy.visible - 1
        if not sinks or int(cache.high[first:end].max()) <= last:
            return
        base = (new.index - last).clamp(min=0)
        angles = self.turns(base[:, None] + torch.arange(sinks, device=base.device))
        plain = torch.stack([keys[first:end, :sinks] for keys in cache.keys], dim=1)
        cache.turned[first:end, :, :sinks] = turn(plain, (angles[0][:, None], angles[1][:, None]))

    def block(self, x: Tensor, state: DecoderState, take: Tensor) -> Tensor:
        """One block, packed: x (tokens,) or (tokens, width) of take (slots,) tokens a slot -> (tokens, width)."""
        block = state.cache.append(self.policy, take)
        angles = self.turns(block.index) if self.turned else None

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            state.cache.write(layer, block, k, v, None if angles is None else turn(k, angles))
            return self._attend(layer, q, state.cache, block)

        hidden = self.decoder.run(x, attend)
        if self.policy.scored:
            state.cache.rate(block, self._surprise(x, hidden, state.hidden, block))
        return hidden

    def _attend(self, layer: int, q: Tensor, cache: CacheState, block: Block) -> Tensor:
        out = torch.empty_like(q)
        for group in block.groups:
            padded = q.new_zeros(len(group.rows), group.n, *q.shape[1:])
            padded[group.row, group.column] = q[group.packed]
            k, v = _rows(cache.keys[layer], group), _rows(cache.values[layer], group)
            y = cache_attention(padded, k, v, self.table, *group.positions, group.visible, self.policy.sinks)
            out[group.packed] = y[group.row, group.column]
        return out

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


def _rows(x: Tensor, group: Group) -> Tensor:
    """The entries in use (r, used, ...) of the group's slots; a view when those are all slots."""
    x = x[:, : group.visible.shape[2]]
    return x if len(group.rows) == len(x) else x[group.rows]
