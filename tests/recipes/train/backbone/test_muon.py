"""Muon: updates are near orthogonal, of one size for any gradient, and they find the bottom."""

from __future__ import annotations

import pytest
import torch

from vivavoce.recipes.train.backbone.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(12, 12), (8, 30), (30, 8)])
def test_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    y = orthogonal(x)
    values = torch.linalg.svdvals(y)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    assert float((u.T @ y @ v.T).diagonal().min()) > 0.3  # in the same directions


def test_the_size_of_the_gradient_does_not_matter() -> None:
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonal(1000 * x), orthogonal(x), rtol=1e-3, atol=1e-4)


def test_it_finds_the_bottom_and_decays_what_is_not_needed() -> None:
    goal = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    weight = torch.zeros(4, 5, requires_grad=True)
    optimizer = Muon([weight], 0.05)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 100)
        (weight - goal).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float((weight.detach() - goal).abs().max()) < 0.1
    idle = torch.ones(2, 2, requires_grad=True)
    decay = Muon([idle], 0.1, weight_decay=0.5)
    decay.step()
    assert bool((idle == 1).all())  # without a gradient nothing moves
    idle.grad = torch.zeros(2, 2)
    decay.step()
    torch.testing.assert_close(idle.detach(), torch.full((2, 2), 0.95))
