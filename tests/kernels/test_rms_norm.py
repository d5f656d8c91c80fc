"""RMSNorm is its formula, and torch's own where that has the same precision."""

from __future__ import annotations

import math

import pytest
import torch

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
