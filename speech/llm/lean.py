"""One token of every session on a CPU: what `Decoder.run` computes, in as few calls as torch allows.

At the sizes that a CPU runs in real time, calling an operation costs as much as its arithmetic. So weights are looked
up once, the norms of heads are folded into rotary embedding's angles, keys are kept as they were turned when they came,
and what is frequent is replayed without Python. model.py goes this way where it keeps keys turned; tests hold it equal
to the other one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.speech.nn.packed import PackedLinear
from vivavoce.streaming.cache_policy import CachePolicy
from vivavoce.streaming.replay import Replays
from vivavoce.streaming.sink_cache import CacheState, OneEach

from .decoder import Decoder, Layer, RmsNorm
from .turns import Angles, Turns, turn


class Lean:
    """decoder: its weights are referred to, not copied, and are not to be trained while this is in use."""

    def __init__(self, decoder: Decoder, policy: CachePolicy, turns: Turns) -> None:
        c = decoder.config
        self.policy, self.turns = policy, turns
        self.embed = decoder.embed.weight
        layers = [layer for layer in decoder.layers if isinstance(layer, Layer)]
        self.layers = [LeanLayer(layer) for layer in layers]
        self.forwards = [layer.forward for layer in self.layers]  # modules called as such take longer
        self.replays = Replays(self.layers)
        self.norm = _unit(decoder.norm)
        self.small = self.embed.new_tensor(c.eps * c.width).sqrt()
        self.heads_norm = torch.stack([_heads_norm(layer) for layer in layers]) if c.qk_norm else None
        self.least = self.embed.new_tensor(torch.finfo(self.embed.dtype).min)
        self.nought = self.embed.new_zeros(())

    def __call__(self, x: Tensor, cache: CacheState, new: OneEach) -> Tensor:
        """x: (n,) tokens or (n, width) embeddings of the slots of `new` -> (n, width)."""
        n = len(x)
        x = x if x.is_floating_point() else F.embedding(x, self.embed)
        seen = () if new.visible is None else (torch.where(new.visible, self.nought, self.least)[:, None, None],)
        store = cache.kept.narrow(0, new.first, n)
        self._bring_sinks(store, new)
        parts = store.narrow(4, 0, new.used).flatten(1, 2).unbind(1)
        rows = cache.kept.view(-1, cache.kept.shape[-1])
        # one more column, eps in it: so the length of a row is what RMSNorm divides by (√width is in the weight)
        wide = torch.cat((x, self.small.expand(n, 1)), 1)
        own = [(cos, sin, parts[3 * i + 2], parts[3 * i + 1], new.to[i])
               for i, (cos, sin) in enumerate(self._turnings(new))]  # fmt: skip
        kind = (n, wide.dtype, own[0][0].dim(), new.to[0].dim(), len(seen))
        layers = self.replays.of(kind, wide, *own[0], rows, *seen) or self.forwards
        for layer, given in zip(layers, own, strict=True):
            layer(wide, *given, rows, *seen)
        return _normal(wide, self.norm)

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


def _normal(wide: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm of all but the last column of (n, width + 1)."""
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    return wide.narrow(1, 0, wide.shape[1] - 1).div(length).mul_(weight)


def hide(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to scores, alike in shape, so that only the visible count: the least number rather than -inf, so that
    a row that sees nothing stays finite."""
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)


class _Linear(nn.Module):
    """weight: (in, out)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().t())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def onto(self, rest: Tensor, x: Tensor) -> None:
        """Add what x becomes to `rest`."""
        if self.bias is not None:
            rest.add_(self.bias)
        rest.addmm_(x, self.weight)


class _Packed(nn.Module):
    """The same of weights that layout.py packed."""

    def __init__(self, linear: PackedLinear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear.forward(x)
        return y

    def onto(self, rest: Tensor, x: Tensor) -> None:
        rest.add_(self.forward(x))


def _linear(module: nn.Module) -> _Linear | _Packed:
    if isinstance(module, PackedLinear):
        return _Packed(module)
    assert isinstance(module, nn.Linear)
    return _Linear(module)


class LeanLayer(nn.Module):
    """A layer as `Replays` takes it."""

    norm_attention: Tensor
    norm_mlp: Tensor
    k_norm: Tensor | None
    small_head: Tensor | None

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        a = layer.attention
        self.heads, self.kv_heads, self.head_dim = a.heads, a.kv_heads, a.head_dim
        self.qkv, self.out = _linear(a.qkv), _linear(a.out)
        self.gate_up, self.down = _linear(layer.gate_up), _linear(layer.down)
        self.register_buffer("norm_attention", _unit(layer.norm_attention))
        self.register_buffer("norm_mlp", _unit(layer.norm_mlp))
        norm = a.k_norm if isinstance(a.k_norm, RmsNorm) else None
        self.register_buffer("k_norm", None if norm is None else _unit(norm))
        small = None if norm is None else norm.weight.detach().new_tensor(norm.eps * self.head_dim).sqrt()
        self.register_buffer("small_head", small)

    def forward(
        self, wide: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, to: Tensor, rows: Tensor,
        *seen: Tensor,
    ) -> Tensor:  # fmt: skip
        """wide: (n, width + 1), added to in place, all but its last column. cos, sin: how the new heads are turned.
        keys, values: (n, kv_heads, used, D) of the cache, among them the places of the new ones; to, rows: those
        places, see `OneEach`, and the whole cache. seen: what to add to scores; none: all is seen. Returns `wide`."""
        x = wide.narrow(1, 0, wide.shape[1] - 1)
        queries = self._take_in(_normal(wide, self.norm_attention), (cos, sin), to, rows)
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen[0] if seen else None)
        self.out.onto(x, y.flatten(1))
        gate, up = self.gate_up.forward(_normal(wide, self.norm_mlp)).chunk(2, 1)
        self.down.onto(x, F.silu(gate).mul_(up))
        return wide

    def _take_in(self, x: Tensor, turning: Angles, to: Tensor, rows: Tensor) -> Tensor:
        """Write the keys and values; the queries, (n, kv_heads, heads / kv_heads, D): those that share a key head stand
        where queries of several tokens would."""
        h, groups = self.heads, self.kv_heads
        heads = self.qkv.forward(x).unflatten(1, (-1, self.head_dim))
        both, values = heads.narrow(1, 0, h + groups), heads.narrow(1, h + groups, groups)
        if self.small_head is not None:
            both = both.div(torch.hypot(torch.linalg.vector_norm(both, dim=2, keepdim=True), self.small_head))
        turned = turn(both, turning)
        plain = both.narrow(1, h, groups)
        plain = plain if self.k_norm is None else plain * self.k_norm
        new = torch.cat((plain, values, turned.narrow(1, h, groups)), 1)
        if to.dim() > 1:
            to.copy_(new)
        else:
            rows.index_copy_(0, to, new.flatten(0, 1))
        return turned.narrow(1, 0, h).view(len(x), groups, -1, self.head_dim)


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
