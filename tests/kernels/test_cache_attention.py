"""Attention over a cache is its formula, term by term in a plain loop: grouped heads, sinks, ragged rows."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from twins import check, moved, of_twin

import vivavoce.kernels.cache_attention as module
from vivavoce.kernels import registry
from vivavoce.kernels.cache_attention import cache_attention
from vivavoce.kernels.rotary import rotary_table

D, POSITIONS = 4, 40
FREQUENCIES = [1.0, 0.05]
TABLE = rotary_table(torch.tensor(FREQUENCIES, dtype=torch.float64), POSITIONS)


def case(b: int, n: int, c: int, heads: int, kv_heads: int, sinks: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def places(*shape: int) -> Tensor:
        return torch.randint(0, POSITIONS, shape, generator=g)

    visible = torch.rand(b, n, c, generator=g) < 0.6
    visible[:, :, c // 2] = True
    return {
        "q": normal(b, n, heads, D), "k": normal(b, c, kv_heads, D), "v": normal(b, c, kv_heads, D), "table": TABLE,
        "key_positions": places(b, c), "query_positions": places(b, n), "sink_positions": places(b, n),
        "visible": visible, "sinks": sinks,
    }  # fmt: skip


def naive(q: Tensor, k: Tensor, v: Tensor, table: Tensor, key_positions: Tensor, query_positions: Tensor,
          sink_positions: Tensor, visible: Tensor, sinks: int) -> Tensor:  # fmt: skip
    """One query, head and key at a time; rotation as multiplication by a complex number."""
    out = torch.zeros_like(q)
    b, n, heads, _ = q.shape
    share = heads // k.shape[2]
    for at in [(i, j, h) for i in range(b) for j in range(n) for h in range(heads)]:
        i, j, h = at
        seen, scores = visible[i, j].nonzero()[:, 0].tolist(), []
        for e in seen:
            mine = sink_positions[i, j] if e < sinks else query_positions[i, j]
            distance = int(mine - key_positions[i, e])
            pairs = [(complex(*x[[p, p + 2]].tolist())) for x in (q[at], k[i, e, h // share]) for p in (0, 1)]
            score = sum((pairs[p] * pairs[p + 2].conjugate() * cmath.exp(1j * distance * FREQUENCIES[p])).real
                        for p in (0, 1))  # fmt: skip
            scores.append(score / math.sqrt(D))
        weights = [math.exp(s - max(scores)) for s in scores]
        for w, e in zip(weights, seen, strict=True):
            out[at] += w / sum(weights) * v[i, e, h // share]
    return out


CASES = [(1, 1, 5, 1, 1, 0), (2, 1, 7, 4, 2, 2), (2, 3, 7, 4, 1, 3), (1, 4, 6, 6, 3, 0), (1, 2, 4, 2, 2, 4)]


@pytest.mark.parametrize("shape", CASES, ids=str)
def test_it_equals_a_loop_over_queries_heads_and_keys(shape: tuple[int, ...]) -> None:
    inputs = case(*shape)
    assert (cache_attention(**inputs) - naive(**inputs)).abs().max() <= 1e-12


def test_what_is_not_visible_does_not_matter() -> None:
    inputs = case(2, 3, 7, 4, 2, 2)
    inputs["visible"][..., 5] = False
    expected = cache_attention(**inputs)
    inputs["k"][:, 5], inputs["v"][:, 5], inputs["key_positions"][:, 5] = 1e3, -1e3, 0
    assert torch.equal(cache_attention(**inputs), expected)


def test_a_query_that_sees_nothing_gets_something_finite() -> None:
    inputs = case(2, 2, 5, 2, 1, 1)
    inputs["visible"][1, 1] = False
    assert cache_attention(**inputs).isfinite().all()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 8e-2)])
def test_lower_precision_is_as_near_as_its_inputs_allow(dtype: torch.dtype, limit: float) -> None:
    inputs = case(2, 3, 30, 4, 2, 2)
    low: dict[str, Any] = {k: x.to(dtype) if isinstance(x, Tensor) and k in "qkv" else x for k, x in inputs.items()}
    low["table"] = TABLE.float()
    y = cache_attention(**low)
    assert y.dtype == dtype
    assert (y - naive(**inputs)).abs().max() <= limit


# more keys than one tile holds, more rows than one block, splits that end early
WIDE = [(1, 4, 150, 6, 3, 70), (1, 40, 70, 4, 2, 4)]


@of_twin
@pytest.mark.parametrize("shape", CASES + WIDE, ids=str)
def test_the_twin_errs_no_more_than_twice_as_much(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check(registry.cache_attention, list(case(*shape).values()), dtype, exact=(3,))


@of_twin
def test_the_twin_reads_no_block_that_no_query_sees(dtype: torch.dtype) -> None:
    inputs = case(2, 1, 200, 2, 1, 2)
    inputs["visible"][:, :, 60:] = False
    expected = check(registry.cache_attention, list(inputs.values()), dtype, exact=(3,))
    for name in ("k", "v"):
        inputs[name][:, 64:] = math.nan
    low = {k: moved(x, torch.float32 if k == "table" else dtype) for k, x in inputs.items()}
    assert torch.equal(registry.cache_attention.twin(**low), expected)


@of_twin
@pytest.mark.parametrize("programs", [1, 3, 512])
def test_the_twin_may_split_keys_among_any_number_of_programs(
    dtype: torch.dtype, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRAMS", programs)
    check(registry.cache_attention, list(case(1, 2, 200, 2, 1, 2).values()), dtype, exact=(3,))


@of_twin
def test_the_twin_takes_a_cache_in_any_layout_and_blind_queries(dtype: torch.dtype) -> None:
    inputs = case(2, 2, 10, 4, 2, 1)
    inputs["visible"][1, 1] = False
    low = {k: moved(x, torch.float32 if k == "table" else dtype) for k, x in inputs.items()}
    y = registry.cache_attention.twin(**low)
    assert y.isfinite().all()
    strided = dict(low)
    for name in "kv":  # slots 1 and 2 of a store of four, with room behind
        store = torch.zeros(4, 13, 2, D, dtype=dtype, device=y.device)
        store[1:3, :10] = low[name]
        strided[name] = store[1:3, :10]
    strided["visible"] = low["visible"].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(registry.cache_attention.twin(**strided), y)
