"""Sampling: each setting keeps what it says it keeps, draws follow the probabilities, and company changes nothing."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vivavoce.speech.llm.sampling import RECENT, SamplerState, Sampling, sample, uniform

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -4.0])


def state(*settings: Sampling) -> SamplerState:
    made = SamplerState.empty(len(settings))
    for i, one in enumerate(settings):
        made.set_(i, one)
    return made


def draw(sampling: Sampling, n: int, logits: Tensor = LOGITS) -> list[int]:
    """n tokens of one slot that scores the same each time."""
    sampler = state(sampling)
    return [int(sample(logits[None], sampler, torch.tensor([0]))) for _ in range(n)]


def shares(sampling: Sampling, n: int = 4000) -> list[float]:
    """How often each token comes, over n sessions of one draw each."""
    sampler = state(*[sampling] * n)
    sampler.seed.copy_(torch.arange(n))
    counts = Counter(sample(LOGITS.expand(n, -1), sampler, torch.arange(n)).tolist())
    return [counts[i] / n for i in range(len(LOGITS))]


def close(a: list[float], b: Tensor) -> bool:
    return all(abs(x - y) < 0.03 for x, y in zip(a, b.tolist(), strict=True))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draw(Sampling(seed=1), 5) == [0] * 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature: float) -> None:
    assert close(shares(Sampling(temperature)), (LOGITS / temperature).softmax(0))


def test_draws_of_one_session_follow_the_probabilities_too() -> None:
    counts = Counter(draw(Sampling(1.0, seed=5), 800))
    assert max(abs(counts[i] / 800 - float(p)) for i, p in enumerate(LOGITS.softmax(0))) < 0.05


def test_top_k_keeps_the_k_likeliest() -> None:
    expected = torch.zeros(6)
    expected[:2] = LOGITS[:2].softmax(0)
    assert close(shares(Sampling(1.0, top_k=2)), expected)


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    kept = LOGITS.softmax(0).cumsum(0) - LOGITS.softmax(0) < 0.8
    assert 1 < int(kept.sum()) < 6
    assert close(shares(Sampling(1.0, top_p=0.8)), LOGITS.masked_fill(~kept, -torch.inf).softmax(0))
    assert shares(Sampling(1.0, top_p=1e-9), 50) == [1, 0, 0, 0, 0, 0]


def test_top_p_counts_within_top_k() -> None:
    assert shares(Sampling(1.0, top_k=2, top_p=0.7), 200) == [1, 0, 0, 0, 0, 0]  # 0.73 of the two


def test_repetition_aware_sampling_draws_again_from_everything() -> None:
    plain = Sampling(1.0, top_k=1, seed=3)
    assert set(draw(plain, 200)) == {0}
    aware = draw(Sampling(1.0, top_k=1, ras_window=10, ras_share=0.1, seed=3), 600)
    assert set(aware) >= {0, 1, 2, 3}
    after = [b for a, b in pairwise(aware) if a == 0]
    assert abs(after.count(0) / len(after) - float(LOGITS.softmax(0)[0])) < 0.1  # just seen: from everything
    first = [aware[i] for i in range(10, 600) if 0 not in aware[i - 10 : i]]
    assert set(first) <= {0}  # out of the window: as top-k says


def test_repetition_waits_for_its_share() -> None:
    said = [draw(Sampling(1.0, top_k=1, ras_window=10, ras_share=0.5, seed=seed), 6) for seed in range(20)]
    assert [one[:5] for one in said] == [[0] * 5] * 20
    assert {one[5] for one in said} > {0}  # five of ten is the share, and what follows is drawn from everything


def test_company_and_place_change_no_draw() -> None:
    settings = [Sampling(1.0, seed=4), Sampling(0.7, top_k=3, seed=9), Sampling(), Sampling(1.5, top_p=0.6, seed=2**62)]
    logits = torch.randn(30, 4, 6, generator=torch.Generator().manual_seed(0))
    alone = []
    for i, one in enumerate(settings):
        sampler = state(one)
        alone.append([int(sample(logits[t, i : i + 1], sampler, torch.tensor([0]))) for t in range(30)])
    together = state(*reversed(settings))
    got: list[list[int]] = [[] for _ in settings]
    for t in range(30):
        for slots in ([3, 1], [0, 2]) if t % 2 else ([2, 0, 3, 1],):
            tokens = sample(logits[t, [3 - s for s in slots]], together, torch.tensor(slots))
            for slot, token in zip(slots, tokens.tolist(), strict=True):
                got[3 - slot].append(token)
    assert got == alone


def test_a_copied_slot_draws_what_the_other_would_have() -> None:
    sampler = state(Sampling(1.0, seed=8, ras_window=4, ras_share=0.5), Sampling())
    flat = torch.zeros(1, 50)
    for _ in range(5):
        sample(flat, sampler, torch.tensor([0]))
    sampler.copy_slots_(torch.tensor([1]), sampler, torch.tensor([0]))
    both = [sample(flat.expand(2, -1), sampler, torch.tensor([0, 1])).tolist() for _ in range(20)]
    assert all(a == b for a, b in both)
    assert len({a for a, _ in both}) > 8


def test_other_seeds_draw_otherwise_and_settings_start_afresh() -> None:
    flat = torch.zeros(100)
    assert draw(Sampling(1.0, seed=1), 20, flat) != draw(Sampling(1.0, seed=2), 20, flat)
    assert draw(Sampling(1.0, seed=1), 20, flat) == draw(Sampling(1.0, seed=1), 20, flat)


def test_random_numbers_are_uniform_and_uncorrelated() -> None:
    u = uniform(torch.arange(400)[:, None], torch.arange(400))
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 0.005
    bins = torch.histc(u, 50, 0, 1) / u.numel() * 50
    assert (bins - 1).abs().max() < 0.08
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u, u.T)):
        off = ~torch.eye(400, dtype=torch.bool)[: a.shape[0], : a.shape[1]]
        assert abs(float(torch.corrcoef(torch.stack((a[off], b[off])))[0, 1])) < 0.02


def test_random_numbers_are_those_of_the_published_finaliser() -> None:
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    golden = 0x9E3779B97F4A7C15
    for seed, counter in ((0, 0), (1, 0), (123456789, 77), (-5, 3), (2**62, 10**9)):
        expected = mix(mix((seed + golden) % 2**64) ^ (counter * golden + 0x632BE59BD9B4E019) % 2**64) >> 11
        assert float(uniform(torch.tensor(seed), torch.tensor(counter))) == expected * 2.0**-53


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    logits, state = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)), SamplerState.empty(1)
    state.set_(0, Sampling(temperature=temperature))
    assert int(sample(logits, state, torch.tensor([0]))) == int(logits.argmax())


def test_a_token_of_no_probability_never_comes() -> None:
    logits = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    assert set(draw(Sampling(3.0, seed=1), 200, logits.nan_to_num(neginf=-1e9))) == {0, 2}


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0},
                                   {"top_p": 1.1}, {"ras_window": RECENT + 1}, {"ras_share": 0.0},
                                   {"seed": 2**63}])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="take"):
        Sampling(**wrong)  # type: ignore[arg-type]
