"""bfloat16 where it is wanted: products in it, convolutions and their gradients in float32 on a CPU."""

import pytest
import torch
from torch import nn

from vivavoce.recipes.train.precision import mixed

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", [None, False, True])
def test_products_are_in_bfloat16_where_it_is_wanted(wanted: bool | None) -> None:
    with mixed(CPU, wanted):
        y = nn.Linear(4, 4)(torch.ones(2, 4))
    assert y.dtype == (torch.bfloat16 if wanted else torch.float32)
    assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype == torch.float32


@pytest.mark.parametrize("layer", [nn.Conv1d(8, 8, 3, groups=8), nn.Conv2d(1, 8, 3)])
def test_convolutions_stay_in_float32_on_a_cpu(layer: nn.Module) -> None:
    x = torch.randn(2, 8, 20) if isinstance(layer, nn.Conv1d) else torch.randn(2, 1, 20, 20)
    layer(x).square().sum().backward()
    exact = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    with mixed(CPU, True):
        y = layer(x)
        half = layer(x.bfloat16())
    assert y.dtype == half.dtype == torch.float32
    y.square().sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(layer.parameters(), exact, strict=True))
