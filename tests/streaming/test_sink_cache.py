"""The cache against plain lists: any append, rollback, fork, copy and reload, in any company."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivavoce.streaming.cache_policy import CachePolicy, EntropyRetained, KeepAll, SinkRing
from vivavoce.streaming.errors import StateMismatch
from vivavoce.streaming.sink_cache import Block, CacheOverflow, CacheState, RollbackTooFar

POLICIES: list[CachePolicy] = [SinkRing(2, 5, 4), SinkRing(0, 3, 2), SinkRing(1, 4, 0), KeepAll(window=400),
            EntropyRetained(2, 9, 3, 4, 5, 0.9)]  # fmt: skip
LIKE = torch.zeros((), dtype=torch.float64)


def empty(policy: CachePolicy, slots: int) -> CacheState:
    return CacheState.empty(slots, policy, layers=2, kv_heads=1, head_dim=2, like=LIKE)


def payload(names: Tensor) -> Tensor:
    """What stands for the keys of a token: its name, twice."""
    return names.double()[:, None, None].expand(-1, 1, 2)


def surprise(names: Tensor) -> Tensor:
    return (names * 7919 % 101 + 1) / 101


def append(cache: CacheState, policy: CachePolicy, tokens: list[list[int]]) -> None:
    """The named tokens of each slot, however many blocks they take."""
    tokens = [list(row) for row in tokens]
    while any(tokens):
        todo = torch.tensor([len(row) for row in tokens])
        cache.evict(policy.plan(cache), todo > 0)
        take = torch.minimum(todo, policy.room(cache)).clamp(max=policy.block)
        block = cache.append(policy, take)
        names = torch.tensor([row.pop(0) for row, n in zip(tokens, take.tolist(), strict=True) for _ in range(n)])
        _write(cache, policy, block, names)


def _write(cache: CacheState, policy: CachePolicy, block: Block, names: Tensor) -> None:
    for layer in range(2):
        cache.write(layer, block, payload(names) + layer, -payload(names) - layer)
    if policy.scored:
        cache.rate(block, surprise(names))


def held(cache: CacheState) -> list[list[int]]:
    """The names of what each slot's next token would see; keys, values and layers must agree."""
    found = cache.gather()
    names = found.keys[0][:, :, 0, 0]
    real = torch.arange(names.shape[1]) < found.count[:, None]
    assert torch.equal(found.keys[1][..., 0, 0][real], names[real] + 1)
    assert torch.equal(found.values[0][..., 0, 1][real], -names[real])
    return [row[:n] for row, n in zip(names.long().tolist(), found.count.tolist(), strict=True)]


def alone(policy: CachePolicy, tokens: list[int]) -> list[int]:
    """What the token after these sees, by the policy's definition, on a list."""
    if isinstance(policy, KeepAll):
        return tokens
    if isinstance(policy, SinkRing):
        n = len(tokens)
        return [t for i, t in enumerate(tokens) if i < policy.sinks or i > n - policy.window]
    assert isinstance(policy, EntropyRetained)
    kept: list[tuple[int, int]] = []
    for i, name in enumerate(tokens):
        if len(kept) == policy.sinks + policy.window:
            others = [x for x in kept if policy.sinks <= x[0] < i - policy.recent]
            worth = {x: math.log(float(surprise(torch.tensor(x[1])))) - x[0] * math.log(policy.decay) for x in others}
            gone = sorted(others, key=lambda x: (worth[x], x))[: policy.stride]
            kept = [x for x in kept if x not in gone]
        kept.append((i, name))
    return [name for _, name in kept]


def counts(*n: int) -> Tensor:
    return torch.tensor(n)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_any_history_holds_what_its_tokens_alone_would_hold(policy: CachePolicy, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    slots, name = 3, iter(range(1, 10**6))
    cache, high = empty(policy, slots), [0] * slots
    tokens: list[list[int]] = [[] for _ in range(slots)]
    for _ in range(60):
        move = rng.choice(["append", "append", "append", "rollback", "fork", "permute", "reload"])
        if move == "append":
            new = [[next(name) for _ in range(rng.choice([0, 1, 1, 6]))] for _ in range(slots)]
            append(cache, policy, new)
            tokens = [a + b for a, b in zip(tokens, new, strict=True)]
            high = [max(h, len(t)) for h, t in zip(high, tokens, strict=True)]
        elif move == "rollback":
            back = [rng.randint(0, max(0, min(len(t), len(t) - h + policy.slack)))
                    for t, h in zip(tokens, high, strict=True)]  # fmt: skip
            cache.rollback(policy, counts(*back))
            tokens = [t[: len(t) - n] for t, n in zip(tokens, back, strict=True)]
        elif move == "fork":
            a, b = rng.sample(range(slots), 2)
            cache.fork(a, [b])
            tokens[b], high[b] = list(tokens[a]), high[a]
        elif move == "permute":
            order = rng.sample(range(slots), slots)
            cache = cache.take(torch.tensor(order))
            tokens, high = [tokens[i] for i in order], [high[i] for i in order]
        else:
            cache.save(tmp_path / "cache")
            cache = empty(policy, slots)
            cache.load_file_(tmp_path / "cache")
        assert cache.length.tolist() == [len(t) for t in tokens]
        if not policy.scored:  # rolled back to just after it evicted, a scored policy already holds less
            assert held(cache) == [alone(policy, t) for t in tokens]
    last = [[next(name)] for _ in range(slots)]
    append(cache, policy, last)
    assert held(cache) == [alone(policy, a + b) for a, b in zip(tokens, last, strict=True)]


def test_addresses_stay() -> None:
    policy = SinkRing(1, 3, 2)
    cache = empty(policy, 2)
    before = [(name, leaf.data_ptr()) for name, leaf in cache.leaves()]
    append(cache, policy, [list(range(20)), [1]])
    cache.rollback(policy, counts(2, 1))
    cache.fork(0, [1])
    assert [(name, leaf.data_ptr()) for name, leaf in cache.leaves()] == before


def test_memory_does_not_depend_on_the_stream() -> None:
    policy = SinkRing(4, 12, 4)
    cache = empty(policy, 1)
    size = cache.nbytes
    append(cache, policy, [list(range(500))])
    assert (cache.nbytes, int(cache.length)) == (size, 500)
    assert held(cache)[0] == [0, 1, 2, 3, *range(489, 500)]  # the next token is the twelfth of the window


def test_a_slot_that_gets_nothing_is_untouched() -> None:
    for policy in POLICIES:
        cache = empty(policy, 2)
        append(cache, policy, [list(range(11)), list(range(30, 41))])
        before = {name: leaf[1].clone() for name, leaf in cache.leaves()}
        append(cache, policy, [list(range(50, 70)), []])
        cache.rollback(policy, counts(policy.slack, 0))
        assert all(torch.equal(leaf[1], before[name]) for name, leaf in cache.leaves())


def test_taking_back_what_is_overwritten_is_refused_and_changes_nothing() -> None:
    policy = SinkRing(1, 4, 3)
    cache = empty(policy, 2)
    append(cache, policy, [list(range(20)), [1, 2]])
    cache.rollback(policy, counts(2, 0))
    before = held(cache)
    for wrong in (counts(2, 0), counts(0, 3), counts(0, -1)):
        with pytest.raises(RollbackTooFar, match=r"slot [01]: .* cannot be taken back, only [12]"):
            cache.rollback(policy, wrong)
    assert held(cache) == before
    cache.rollback(policy, counts(1, 2))
    assert held(cache) == [alone(policy, list(range(17))), []]


def test_a_full_cache_that_drops_nothing_refuses_more_and_changes_nothing() -> None:
    policy = KeepAll(window=5)
    cache = empty(policy, 2)
    append(cache, policy, [[1, 2, 3], [4]])
    with pytest.raises(CacheOverflow, match=r"slot 0: 3 \+ 3 tokens do not fit a cache of 5"):
        append(cache, policy, [[7, 8, 9], [5]])
    assert held(cache) == [[1, 2, 3], [4]]
    append(cache, policy, [[7, 8], [5]])
    assert held(cache) == [[1, 2, 3, 7, 8], [4, 5]]


def test_a_snapshot_of_another_policy_does_not_load(tmp_path: Path) -> None:
    empty(SinkRing(1, 4, 3), 1).save(tmp_path / "cache")
    with pytest.raises(StateMismatch):
        empty(SinkRing(1, 5, 3), 1).load_file_(tmp_path / "cache")
