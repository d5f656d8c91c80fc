"""One token of every session on a CPU: what `Decoder.run` computes, in as few calls as torch allows.

At the sizes that a CPU runs in real time, calling an operation costs as much as its arithmetic. So weights are looked
up once, the norms of heads are folded into rotary embedding's angles, and keys are kept as they were turned when they
came. model.py goes this way where it keeps keys turned; tests hold it equal to the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.speech.nn.packed import PackedLinear
from vivavoce.streaming.cache_policy import CachePolicy
from vivavoce.streaming.sink_cache import CacheState, OneEach

from .decoder import Decoder, Layer, RmsNorm
from .turns import Angles, Turns, turn


class Lean:
    """decoder: its weights are referred to, not copied, and are not to be trained while this is in use."""

    def __init__(self, decoder: Decoder, policy: CachePolicy, turns: Turns) -> None:
        c = decoder.config
        self.policy, self.turns = policy, turns
        self.heads, self.kv_heads, self.head_dim = c.heads, c.kv_heads, c.head_dim
        self.embed = decoder.embed.weight
        self.layers = [_Layer.of(layer) for layer in decoder.layers if isinstance(layer, Layer)]
        self.norm = _unit(decoder.norm)
        self.small = self.embed.new_tensor(c.eps * c.width).sqrt()
        self.small_head = self.embed.new_tensor(c.eps * c.head_dim).sqrt() if c.qk_norm else None

    def __call__(self, x: Tensor, cache: CacheState, new: OneEach, first: int) -> Tensor:
        """x: (n,) tokens or (n, width) embeddings of the slots from `first` on -> (n, width)."""
        x = x if x.is_floating_point() else F.embedding(x, self.embed)
        angles = self.turns(new.index)
        seen = None if new.visible is None else hide(new.visible, self.small.dtype)[:, None, None]
        self._bring_sinks(cache, new, first)
        for i, (layer, turning) in enumerate(zip(self.layers, self._turnings(angles), strict=True)):
            y = self._attend(i, layer, self._normal(x, layer.norm_attention), turning, cache, new, first, seen)
            x = layer.out.onto(x, y)
            gate, up = layer.gate_up(self._normal(x, layer.norm_mlp)).chunk(2, 1)
            x = layer.down.onto(x, F.silu(gate).mul_(up))
        return self._normal(x, self.norm)

    def _normal(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm: the root of the sum of squares and of eps is their hypotenuse; √width is in the weight."""
        return x.div(torch.hypot(torch.linalg.vector_norm(x, dim=1, keepdim=True), self.small)).mul_(weight)

    def _attend(
        self, i: int, layer: _Layer, x: Tensor, turning: Angles, cache: CacheState, new: OneEach, first: int,
        seen: Tensor | None,
    ) -> Tensor:  # fmt: skip
        n, h, groups = len(x), self.heads, self.kv_heads
        heads = layer.qkv(x).view(n, -1, self.head_dim)
        both = heads.narrow(1, 0, h + groups)
        if self.small_head is not None:
            both = both.div(torch.hypot(torch.linalg.vector_norm(both, dim=2, keepdim=True), self.small_head))
        turned = turn(both, turning)
        plain = both.narrow(1, h, groups)
        cache.write_one(
            i, new, plain if layer.k_norm is None else plain * layer.k_norm, heads.narrow(1, h + groups, groups),
            turned.narrow(1, h, groups),
        )  # fmt: skip
        keys, values = (x[i][first : first + n, : new.used].transpose(1, 2) for x in (cache.turned, cache.values))
        queries = turned.narrow(1, 0, h).view(n, groups, -1, self.head_dim)  # those that share a head are its queries
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen).reshape(n, -1)

    def _turnings(self, angles: Angles) -> Sequence[Angles]:
        """Of each layer; where heads have norms, with their weights: what turns a head's first half must then have
        the weights of its second, which come with it."""
        if self.small_head is None:
            return [angles] * len(self.layers)
        return [(angles[0] * layer.heads_norm, angles[1] * layer.heads_norm_swapped) for layer in self.layers]

    def _bring_sinks(self, cache: CacheState, new: OneEach, first: int) -> None:
        """Sinks stay near while the stream moves on: past the window they are turned anew."""
        sinks, end = self.policy.sinks, first + len(new.index)
        if not sinks or int(cache.high[first:end].max()) < self.policy.visible:  # idle rows are one token further
            return
        base = (new.index - self.policy.visible + 1).clamp(min=0)
        angles = self.turns(base[:, None] + torch.arange(sinks))
        for plain, turned in zip(cache.keys, cache.turned, strict=True):
            turned[first:end, :sinks] = turn(plain[first:end, :sinks], angles)


def hide(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to scores, alike in shape, so that only the visible count: the least number rather than -inf, so that
    a row that sees nothing stays finite."""
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)


class _Linear(NamedTuple):
    """weight: (in, out); bias: (out,) or None."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def onto(self, rest: Tensor, x: Tensor) -> Tensor:
        """rest + what x becomes."""
        return torch.addmm(rest if self.bias is None else rest + self.bias, x, self.weight)


class _Packed(NamedTuple):
    """The same of weights that layout.py packed."""

    linear: PackedLinear

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear.forward(x)
        return y

    def onto(self, rest: Tensor, x: Tensor) -> Tensor:
        return self(x).add_(rest)


def _linear(module: nn.Module) -> _Linear | _Packed:
    if isinstance(module, PackedLinear):
        return _Packed(module)
    assert isinstance(module, nn.Linear)
    return _Linear(module.weight.detach().t(), None if module.bias is None else module.bias.detach())


class _Layer(NamedTuple):
    """heads_norm: (heads + kv_heads, D) the weights of queries' and keys' norms, `_swapped` with its halves exchanged;
    k_norm: (D,) or None."""

    norm_attention: Tensor
    qkv: _Linear | _Packed
    out: _Linear | _Packed
    norm_mlp: Tensor
    gate_up: _Linear | _Packed
    down: _Linear | _Packed
    heads_norm: Tensor
    heads_norm_swapped: Tensor
    k_norm: Tensor | None

    @classmethod
    def of(cls, layer: Layer) -> _Layer:
        a = layer.attention
        q, k = (_unit(norm) if isinstance(norm, RmsNorm) else None for norm in (a.q_norm, a.k_norm))
        norms = torch.zeros(0) if q is None or k is None else torch.stack([q] * a.heads + [k] * a.kv_heads)
        return cls(
            _unit(layer.norm_attention), _linear(a.qkv), _linear(a.out), _unit(layer.norm_mlp),
            _linear(layer.gate_up), _linear(layer.down), norms,
            norms.roll(a.head_dim // 2, -1) if len(norms) else norms, k,
        )  # fmt: skip


def _unit(norm: RmsNorm) -> Tensor:
    """The weight of a vector whose length, rather than the root of its mean square, has become 1."""
    weight = norm.weight.detach()
    scaled: Tensor = weight * len(weight) ** 0.5
    return scaled
