"""A causal block sees the past only and streams; the other sees both sides."""

from __future__ import annotations

import pytest
import torch

from vivavoce.speech.tts.blocks import ConvBlock


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_any_split_equals_one_pass(x: torch.Tensor) -> None:
    block = ConvBlock(8, 16, 5, causal=True).double()
    memory = torch.zeros(2, 4, 8, dtype=torch.float64)
    parts = [block(part, memory) for part in x.split([1, 4, 7], dim=1)]
    assert torch.allclose(torch.cat(parts, 1), block(x), atol=1e-12)


@pytest.mark.parametrize(("causal", "reach"), [(True, 0), (False, 2)])
def test_how_far_ahead_a_block_sees(x: torch.Tensor, causal: bool, reach: int) -> None:
    block = ConvBlock(8, 16, 5, causal=causal).double()
    other = x.clone()
    other[:, 8:] += 1
    changed = (block(other) - block(x)).abs().amax((0, 2)) > 0
    assert int(changed.nonzero()[0]) == 8 - reach
