"""SwiGLU is its formula."""

from __future__ import annotations

import math

import pytest
import torch
from twins import check, of_twin

from vivavoce.kernels import registry
from vivavoce.kernels.swiglu import swiglu


def test_the_first_half_gates_the_second() -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    y = swiglu(x)
    assert y.shape == (2, 3, 4)
    for i in range(4):
        gate, up = float(x[1, 2, i]), float(x[1, 2, 4 + i])
        assert float(y[1, 2, i]) == pytest.approx(gate / (1 + math.exp(-gate)) * up)


@of_twin
@pytest.mark.parametrize("shape", [(2, 3, 8), (3, 14), (1, 2100), (0, 6)], ids=str)
def test_the_twin_errs_no_more_than_twice_as_much(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check(registry.swiglu, (x,), dtype)
