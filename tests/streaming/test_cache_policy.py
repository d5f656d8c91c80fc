"""Cache policies: what a query sees, and from how far, is what a plain list of tokens says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch

from vivavoce.streaming.cache_policy import CachePolicy, EntropyRetained, KeepAll, SinkRing, Window
from vivavoce.streaming.sink_cache import CacheState

Seen = list[tuple[int, int]]  # (token, how far before the query)
SURPRISE = torch.rand(400, generator=torch.Generator().manual_seed(0)) + 0.01


def empty(policy: CachePolicy, slots: int) -> CacheState:
    return CacheState.empty(slots, policy, layers=1, kv_heads=1, head_dim=2, like=torch.zeros(()))


def stream(policy: CachePolicy, tokens: int, sizes: Callable[[], int]) -> list[Seen]:
    """What every query of one slot sees, when tokens come in pieces of these sizes."""
    cache, out = empty(policy, 1), list[Seen]()
    while (done := int(cache.length)) < tokens:
        cache.evict(policy.plan(cache), torch.tensor([True]))
        n = min(sizes(), tokens - done, policy.block, int(policy.room(cache)))
        block = cache.append(policy, torch.tensor([n]))
        if policy.scored:
            cache.rate(block, SURPRISE[block.index])
        (group,) = block.groups
        for j in range(n):
            at, places = group.visible[0, j].nonzero()[:, 0], group.positions
            query = torch.where(at < policy.sinks, places.sink_query[0, j], places.query[0, j])
            distance = query - places.key[0, at]
            out.append(sorted(zip(cache.born[0, at].tolist(), distance.tolist(), strict=True)))
            assert int(places.key[0, at].min()) >= 0
            assert max(int(places.key[0, at].max()), int(query.max())) < policy.entries
    return out


def ranks(tokens: list[int]) -> Seen:
    """Positions within the cache: the newest of n tokens is at n - 1."""
    return [(t, len(tokens) - 1 - i) for i, t in enumerate(tokens)]


def sink_ring(t: int, sinks: int, window: int) -> Seen:
    return ranks([i for i in range(t + 1) if i < sinks or i > t - window])


def entropy(policy: EntropyRetained, tokens: int) -> list[Seen]:
    """Token by token on a list."""
    held, out = list[int](), list[Seen]()
    for t in range(tokens):
        if len(held) == policy.sinks + policy.window:
            others = [i for i in held if policy.sinks <= i < t - policy.recent]
            worth = {i: math.log(float(SURPRISE[i])) + (t - i) * math.log(policy.decay) for i in others}
            leaving = sorted(others, key=lambda i: (worth[i], i))[: policy.stride]
            held = [i for i in held if i not in leaving]
        held.append(t)
        out.append(ranks(list(held)))
    return out


SIZES: dict[str, Callable[[], Callable[[], int]]] = {
    "one": lambda: lambda: 1,
    "most": lambda: lambda: 10**6,
    "ragged": lambda: (lambda r: lambda: r.randint(1, 5))(random.Random(1)),
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("sinks", "window", "slack"), [(0, 1, 0), (2, 3, 0), (4, 7, 2), (1, 5, 9), (0, 6, 4)])
def test_sink_ring_sees_the_sinks_and_the_last_window(sinks: int, window: int, slack: int, sizes: str) -> None:
    seen = stream(SinkRing(sinks, window, slack), 60, SIZES[sizes]())
    assert seen == [sink_ring(t, sinks, window) for t in range(60)]


def test_plain_window_sees_no_first_token_once_it_is_full() -> None:
    assert stream(Window(window=5, slack=2), 30, SIZES["ragged"]()) == [sink_ring(t, 0, 5) for t in range(30)]


def test_keep_all_sees_everything() -> None:
    assert stream(KeepAll(window=20), 20, SIZES["ragged"]()) == [ranks(list(range(t + 1))) for t in range(20)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("policy", [EntropyRetained(2, 9, 3, 4, 5, 0.97), EntropyRetained(0, 8, 2, 1, 0, 1.0),
                                    EntropyRetained(3, 12, 5, 7, 20, 0.5)], ids=str)  # fmt: skip
def test_entropy_keeps_the_most_surprising_however_tokens_are_cut(policy: EntropyRetained, sizes: str) -> None:
    assert stream(policy, 90, SIZES[sizes]()) == entropy(policy, 90)


def test_fading_lets_old_surprises_go() -> None:
    def oldest(decay: float) -> float:
        seen = stream(EntropyRetained(0, 20, 4, 4, 4, decay), 300, SIZES["one"]())[-1]
        return sum(t for t, _ in seen) / len(seen)

    assert oldest(1.0) < oldest(0.9)


@pytest.mark.parametrize("make", [lambda: SinkRing(-1), lambda: SinkRing(window=0), lambda: SinkRing(slack=-1),
                                  lambda: EntropyRetained(decay=0.0), lambda: EntropyRetained(stride=0),
                                  lambda: EntropyRetained(window=10, recent=8, stride=4)])  # fmt: skip
def test_numbers_that_make_no_cache_are_refused(make: Callable[[], CachePolicy]) -> None:
    with pytest.raises(ValueError, match=r"SinkRing|EntropyRetained"):
        make()


@pytest.mark.parametrize(
    "policy", [SinkRing(2, 5, 3), SinkRing(0, 4, 0), Window(window=6, slack=2), KeepAll(window=30)]
)
def test_the_seat_of_a_token_is_its_entry_and_its_end(policy: CachePolicy) -> None:
    index = torch.arange(30)
    both = zip(policy.entry(index).tolist(), policy.lifetime(index).tolist(), strict=True)
    assert [policy.seat(i) for i in range(30)] == list(both)


def test_where_a_token_will_live_is_unknown_to_a_policy_that_looks_at_what_was_said() -> None:
    policy = EntropyRetained()
    for ask in (lambda: policy.entry(torch.arange(3)), lambda: policy.seat(3)):
        with pytest.raises(ValueError, match="depends on what has been kept"):
            ask()
