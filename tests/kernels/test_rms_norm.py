"""RMSNorm is its formula, and torch's own where that has the same precision."""

from __future__ import annotations

import math

import pytest
import torch
from twins import check, moved, of_twin

from vivavoce.kernels import registry
from vivavoce.kernels.rms_norm import rms_norm


def test_it_equals_a_loop_over_the_values() -> None:
    x, w = torch.randn(3, 2, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    y = rms_norm(x, w, 1e-3)
    for i in range(3):
        for j in range(2):
            root = math.sqrt(sum(float(v) ** 2 for v in x[i, j]) / 5 + 1e-3)
            assert y[i, j].tolist() == pytest.approx(
                [float(v) / root * float(u) for v, u in zip(x[i, j], w, strict=True)]
            )


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_no_worse_than_rounding(dtype: torch.dtype, limit: float) -> None:
    x, w = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).to(dtype), torch.full((64,), 1.5, dtype=dtype)
    y = rms_norm(x, w, 1e-6)
    exact = rms_norm(x.double(), w.double(), 1e-6)
    assert y.dtype == dtype
    assert float(((y - exact).abs() / exact.abs().clamp(min=1e-3)).max()) < limit


def test_large_half_precision_values_do_not_overflow() -> None:
    assert torch.allclose(rms_norm(torch.full((4,), 3e4).half(), torch.ones(4).half(), 0.0), torch.ones(4).half())


SIZES = [((3, 12), 1.0), ((2, 3, 5, 7), 1.0), ((1, 300), 900.0), ((0, 8), 1.0)]


@of_twin
@pytest.mark.parametrize(("shape", "scale"), SIZES, ids=str)
def test_the_twin_errs_no_more_than_twice_as_much(dtype: torch.dtype, shape: tuple[int, ...], scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(s, generator=g, dtype=torch.float64) for s in (shape, shape[-1:]))
    check(registry.rms_norm, (x * scale, w, 1e-6), dtype)


@of_twin
def test_the_twin_takes_heads_out_of_a_wider_tensor(dtype: torch.dtype) -> None:
    wide = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.ones(8, dtype=torch.float64)
    low = moved(wide, dtype)[:, 1:4]
    assert not low.is_contiguous()
    y = registry.rms_norm.twin(low, moved(w, dtype), 1e-6)
    assert torch.equal(y, registry.rms_norm.twin(low.contiguous(), moved(w, dtype), 1e-6))
