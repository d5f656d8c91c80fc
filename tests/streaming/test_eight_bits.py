"""Eight bits a number: within half a step of what went in, each vector by its own size."""

from __future__ import annotations

import pytest
import torch

from vivavoce.streaming.eight_bits import DTYPES, Kept, pack, unpack

X = torch.randn(40, 3, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 40)[:, None, None]


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.5 / 127), ("fp8", 2**-4)])
def test_each_number_comes_back_within_half_a_step(kind: Kept, error: float) -> None:
    packed, scale = pack(X, DTYPES[kind])
    assert packed.element_size() == 1
    largest = X.abs().amax(-1, keepdim=True)
    assert ((unpack(packed, scale) - X).abs() <= error * largest * 1.001).all()


@pytest.mark.parametrize("kind", DTYPES)
def test_nothing_stays_nothing_and_a_loud_vector_leaves_its_neighbours_alone(kind: Kept) -> None:
    assert not unpack(*pack(torch.zeros(2, 8), DTYPES[kind])).any()
    alone = unpack(*pack(X[:1], DTYPES[kind]))
    assert torch.equal(unpack(*pack(torch.cat((X[:1], X[-1:])), DTYPES[kind]))[:1], alone)


@pytest.mark.parametrize("kind", DTYPES)
def test_what_is_not_finite_does_not_pass_for_a_number(kind: Kept) -> None:
    broken = X[:1].clone()
    broken[0, 0, 3] = float("nan")
    assert not unpack(*pack(broken, DTYPES[kind])).isfinite().all()
