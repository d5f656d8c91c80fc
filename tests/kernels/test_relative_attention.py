"""Relative attention is what Transformer-XL's formula says, term by term in a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from twins import check, of_twin

from vivavoce.kernels import registry
from vivavoce.kernels.relative_attention import relative_attention as masked_attention
from vivavoce.kernels.relative_attention import relative_shift

HEADS, WIDTH = 2, 4


def case(batch: int, queries: int, keys: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Random q, k, v, positions, u, v biases and a mask with at least one key a query, in fp64."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    visible = torch.rand(batch, 1, queries, keys, generator=g) < 0.5
    visible[..., 0] = True
    return (
        normal(batch, HEADS, queries, WIDTH),
        normal(batch, HEADS, keys, WIDTH),
        normal(batch, HEADS, keys, WIDTH),
        normal(HEADS, keys + queries - 1, WIDTH),
        normal(HEADS, WIDTH),
        normal(HEADS, WIDTH),
        visible,
    )


def relative_attention(*inputs: Tensor) -> Tensor:
    *rest, visible = inputs
    return masked_attention(*rest, torch.zeros(visible.shape, dtype=rest[0].dtype).masked_fill(~visible, -math.inf))


def naive(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, u: Tensor, w: Tensor, visible: Tensor) -> Tensor:
    """One query and one key at a time. Query i sits at L - T + i; positions[:, 0] is distance L - 1."""
    out = torch.zeros_like(q)
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                seen = [j for j in range(keys) if visible[b % len(visible), 0, i, j]]
                scores = []
                for j in seen:
                    distance = (keys - queries + i) - j
                    r = positions[h, keys - 1 - distance]
                    score = sum(
                        float((q[b, h, i, d] + u[h, d]) * k[b, h, j, d] + (q[b, h, i, d] + w[h, d]) * r[d])
                        for d in range(width)
                    )
                    scores.append(score / math.sqrt(width))
                weights = [math.exp(s - max(scores)) for s in scores]
                for weight, j in zip(weights, seen, strict=True):
                    out[b, h, i] += weight / sum(weights) * v[b, h, j]
    return out


@pytest.mark.parametrize(("batch", "queries", "keys"), [(1, 1, 1), (2, 1, 9), (2, 5, 5), (3, 4, 11), (1, 7, 8)])
def test_it_equals_a_loop_over_queries_and_keys(batch: int, queries: int, keys: int) -> None:
    inputs = case(batch, queries, keys)
    assert (relative_attention(*inputs) - naive(*inputs)).abs().max() <= 1e-12


def test_one_mask_serves_the_whole_batch() -> None:
    *inputs, visible = case(3, 4, 6)
    assert torch.allclose(relative_attention(*inputs, visible[:1]), naive(*inputs, visible[:1]), rtol=0, atol=1e-12)


def test_what_is_not_visible_does_not_matter() -> None:
    q, k, v, *rest, visible = case(1, 3, 6)
    visible[..., 2] = False
    expected = relative_attention(q, k, v, *rest, visible)
    k[:, :, 2], v[:, :, 2] = 1e3, 1e3
    assert torch.equal(relative_attention(q, k, v, *rest, visible), expected)


def test_single_precision_is_as_near_as_its_inputs_allow() -> None:
    inputs = case(2, 7, 70)
    single = [x.float() if x.is_floating_point() else x for x in inputs]
    assert (relative_attention(*single) - naive(*inputs)).abs().max() <= 1e-5


def test_gradients_are_those_of_the_formula() -> None:
    *floats, visible = case(1, 2, 4)
    floats = [x.requires_grad_() for x in floats]
    assert torch.autograd.gradcheck(lambda *x: relative_attention(*x, visible), floats)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 6), (2, 2), (4, 9)])
def test_the_shift_reads_each_distance_at_its_key(queries: int, keys: int) -> None:
    by_distance = torch.randn(2, 3, queries, keys + queries - 1)
    out = relative_shift(by_distance, keys)
    assert out.shape == (2, 3, queries, keys)
    for i in range(queries):
        for j in range(keys):
            assert torch.equal(out[..., i, j], by_distance[..., i, queries - 1 - i + j])


@of_twin
@pytest.mark.parametrize(("batch", "queries", "keys"), [(1, 1, 1), (2, 5, 5), (2, 14, 84), (1, 20, 40)])
def test_the_twin_errs_no_more_than_twice_as_much(dtype: torch.dtype, batch: int, queries: int, keys: int) -> None:
    *inputs, visible = case(batch, queries, keys)
    mask = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -math.inf)
    check(registry.relative_attention, [*inputs, mask], dtype)
    check(registry.relative_attention, [*inputs, mask[:1]], dtype)
