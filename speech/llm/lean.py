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
        layers = [layer for layer in decoder.layers if isinstance(layer, Layer)]
        self.layers = [_Layer.of(layer) for layer in layers]
        self.norm = _unit(decoder.norm)
        self.small = self.embed.new_tensor(c.eps * c.width).sqrt()
        self.small_head = self.embed.new_tensor(c.eps * c.head_dim).sqrt() if c.qk_norm else None
        self.heads_norm = torch.stack([_heads_norm(layer) for layer in layers]) if c.qk_norm else None
        self.least = self.embed.new_tensor(torch.finfo(self.embed.dtype).min)
        self.nought = self.embed.new_zeros(())

    def __call__(self, x: Tensor, cache: CacheState, new: OneEach) -> Tensor:
        """x: (n,) tokens or (n, width) embeddings of the slots of `new` -> (n, width)."""
        n = len(x)
        x = x if x.is_floating_point() else F.embedding(x, self.embed)
        seen = None if new.visible is None else torch.where(new.visible, self.nought, self.least)[:, None, None]
        store = cache.kept.narrow(0, new.first, n)
        self._bring_sinks(store, new)
        parts = store.narrow(4, 0, new.used).flatten(1, 2).unbind(1)
        # one more column, eps in it: so the length of a row is what RMSNorm divides by (√width is in the weight)
        wide = torch.cat((x, self.small.expand(n, 1)), 1)
        x = wide.narrow(1, 0, x.shape[1])
        for i, (layer, turning) in enumerate(zip(self.layers, self._turnings(new), strict=True)):
            queries = self._take_in(i, layer, _normal(x, wide, layer.norm_attention), turning, cache, new)
            values, keys = parts[3 * i + 1], parts[3 * i + 2]
            y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
            layer.out.onto(x, y.reshape(n, -1))
            gate, up = layer.gate_up(_normal(x, wide, layer.norm_mlp)).chunk(2, 1)
            layer.down.onto(x, F.silu(gate).mul_(up))
        return _normal(x, wide, self.norm)

    def _take_in(self, i: int, layer: _Layer, x: Tensor, turning: Angles, cache: CacheState, new: OneEach) -> Tensor:
        """Write the keys and values of layer i; the queries, (n, kv_heads, heads / kv_heads, D): those that share a key
        head stand where queries of several tokens would."""
        n, h, groups = len(x), self.heads, self.kv_heads
        heads = layer.qkv(x).view(n, -1, self.head_dim)
        both, values = heads.narrow(1, 0, h + groups), heads.narrow(1, h + groups, groups)
        if self.small_head is not None:
            both = both.div(torch.hypot(torch.linalg.vector_norm(both, dim=2, keepdim=True), self.small_head))
        turned = turn(both, turning)
        plain = both.narrow(1, h, groups)
        plain = plain if layer.k_norm is None else plain * layer.k_norm
        cache.write_one(i, new, plain, values, turned.narrow(1, h, groups))
        return turned.narrow(1, 0, h).view(n, groups, -1, self.head_dim)

    def _turnings(self, new: OneEach) -> Sequence[Angles]:
        """Of each layer; where heads have norms, with their weights: what turns a head's first half must then have
        the weights of its second."""
        angles = self.turns.near(new.index, new.known).unsqueeze(2)  # (n or 1, 2, 1, D)
        if self.heads_norm is None:
            cos, sin = angles.unbind(1)
            return [(cos, sin)] * len(self.layers)
        each = (angles.unsqueeze(1) * self.heads_norm).flatten(1, 2).unbind(1)
        return list(zip(each[::2], each[1::2], strict=True))

    def _bring_sinks(self, store: Tensor, new: OneEach) -> None:
        """Sinks stay near while the stream moves on: past the window they are turned anew."""
        sinks = self.policy.sinks
        if not sinks or not new.far:
            return
        base = (new.tensor(new.index, store.device) - self.policy.visible + 1).clamp(min=0)
        cos, sin = (a.transpose(1, 2).unsqueeze(1) for a in self.turns(base[:, None] + torch.arange(sinks)))
        of_sinks = store.narrow(4, 0, sinks)
        of_sinks.select(2, 2).copy_(turn(of_sinks.select(2, 0), (cos, sin)))


def _normal(x: Tensor, wide: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm of x (n, width); wide: the same with a column more."""
    return x.div(torch.linalg.vector_norm(wide, dim=1, keepdim=True)).mul_(weight)


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

    def onto(self, rest: Tensor, x: Tensor) -> None:
        """Add what x becomes to `rest`."""
        if self.bias is not None:
            rest.add_(self.bias)
        rest.addmm_(x, self.weight)


class _Packed(NamedTuple):
    """The same of weights that layout.py packed."""

    linear: PackedLinear

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear.forward(x)
        return y

    def onto(self, rest: Tensor, x: Tensor) -> None:
        rest.add_(self(x))


def _linear(module: nn.Module) -> _Linear | _Packed:
    if isinstance(module, PackedLinear):
        return _Packed(module)
    assert isinstance(module, nn.Linear)
    return _Linear(module.weight.detach().t(), None if module.bias is None else module.bias.detach())


class _Layer(NamedTuple):
    """k_norm: (D,) or None."""

    norm_attention: Tensor
    qkv: _Linear | _Packed
    out: _Linear | _Packed
    norm_mlp: Tensor
    gate_up: _Linear | _Packed
    down: _Linear | _Packed
    k_norm: Tensor | None

    @classmethod
    def of(cls, layer: Layer) -> _Layer:
        a = layer.attention
        return cls(
            _unit(layer.norm_attention), _linear(a.qkv), _linear(a.out), _unit(layer.norm_mlp),
            _linear(layer.gate_up), _linear(layer.down),
            _unit(a.k_norm) if isinstance(a.k_norm, RmsNorm) else None,
        )  # fmt: skip


def _heads_norm(layer: Layer) -> Tensor:
    """(2, heads + kv_heads, D) the weights of queries' and keys' norms, and the same with their halves exchanged."""
    a = layer.attention
    assert isinstance(a.q_norm, RmsNorm)
    assert isinstance(a.k_norm, RmsNorm)
    norms = torch.stack([_unit(a.q_norm)] * a.heads + [_unit(a.k_norm)] * a.kv_heads)
    return torch.stack((norms, norms.roll(a.head_dim // 2, -1)))


def _unit(norm: RmsNorm) -> Tensor:
    """The weight of a vector whose length, rather than the root of its mean square, has become 1."""
    weight = norm.weight.detach()
    scaled: Tensor = weight * len(weight) ** 0.5
    return scaled
