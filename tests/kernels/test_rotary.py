"""Rotary embedding turns pairs by position times frequency, so that products depend on distances alone."""

from __future__ import annotations

import math

import pytest
import torch
from twins import check, of_twin

from vivavoce.kernels import registry
from vivavoce.kernels.rotary import rotary, rotary_table

FREQUENCIES = torch.tensor([1.0, 0.1, 0.003], dtype=torch.float64)
TABLE = rotary_table(FREQUENCIES, 50)


def test_each_pair_turns_by_its_own_angle() -> None:
    x, positions = torch.randn(2, 3, 4, 6, dtype=torch.float64), torch.tensor([[0, 7, 49], [3, 3, 1]])
    y = rotary(x, TABLE, positions)
    for b in range(2):
        for t in range(3):
            for i, f in enumerate(FREQUENCIES.tolist()):
                turned = complex(x[b, t, 2, i], x[b, t, 2, i + 3]) * complex(math.cos(positions[b, t] * f),
                                                                             math.sin(positions[b, t] * f))  # fmt: skip
                assert complex(y[b, t, 2, i], y[b, t, 2, i + 3]) == pytest.approx(turned)


def test_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 6, dtype=torch.float64), torch.randn(1, 1, 6, dtype=torch.float64)

    def product(a: int, b: int) -> float:
        return float((rotary(q, TABLE, torch.tensor([a])) * rotary(k, TABLE, torch.tensor([b]))).sum())

    assert product(12, 5) == pytest.approx(product(44, 37), abs=1e-12)
    assert product(12, 5) != pytest.approx(product(12, 6), abs=1e-3)


def test_it_returns_the_dtype_it_was_given_and_turns_in_the_wider() -> None:
    x = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(45, 50)
    half = rotary(x.half(), TABLE.float(), positions)
    assert half.dtype == torch.float16
    assert (half - rotary(x.half().double(), TABLE, positions)).abs().max() < 2e-3


@of_twin
@pytest.mark.parametrize("places", [(2, 5), (5,)], ids=str)
def test_the_twin_errs_no_more_than_twice_as_much(dtype: torch.dtype, places: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 4, 6, generator=g, dtype=torch.float64)[:, :, 1:]
    check(registry.rotary, (x, TABLE, torch.randint(0, 50, places, generator=g)), dtype, exact=(1,))
