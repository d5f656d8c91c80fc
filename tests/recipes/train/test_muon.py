"""Muon: orthogonal updates, resumable, and it learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vivavoce.recipes.train.muon import AS_ADAMW, Muon, matrices, optimizers, orthogonal


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_singular_values_of_one_stay_and_others_come_near(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    g = torch.randn(3, *shape)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    made = orthogonal(g)
    along = torch.einsum("nij,nik,nkl->njl", u, made, v.mT)  # in the directions of g itself
    assert (along - torch.diag_embed(along.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3
    large = s > 0.05 * s[:, :1]
    values = along.diagonal(dim1=1, dim2=2)[large]
    assert 0.4 < float(values.min()) <= float(values.max()) < 1.6


def test_an_update_is_as_large_as_adamws_whatever_the_gradient() -> None:
    for scale in (1e-4, 1e3):
        torch.manual_seed(1)
        p = nn.Parameter(torch.zeros(24, 12, 2))
        optimizer = Muon([p], lr=0.5, weight_decay=0.0)
        p.grad = scale * torch.randn_like(p)
        optimizer.step()
        assert float(p.detach().square().mean().sqrt()) == pytest.approx(0.5 * AS_ADAMW, rel=0.25)


def test_matrices_of_one_shape_are_updated_as_if_alone_and_none_without_gradient() -> None:
    torch.manual_seed(2)
    start = [torch.randn(8, 6), torch.randn(8, 6), torch.randn(4, 6)]
    gradients = [torch.randn(8, 6), torch.randn(8, 6), None]
    together = [nn.Parameter(s.clone()) for s in start]
    optimizer = Muon(together, lr=0.1)
    for p, g in zip(together, gradients, strict=True):
        p.grad = g
    optimizer.step()
    for p, s, g in zip(together, start, gradients, strict=True):
        alone = nn.Parameter(s.clone())
        alone.grad = g
        Muon([alone], lr=0.1).step()
        torch.testing.assert_close(p, alone)
    assert torch.equal(together[2], start[2])


def test_it_finds_the_bottom_and_decays_what_is_not_needed() -> None:
    goal = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    weight = nn.Parameter(torch.zeros(4, 5))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimizer.zero_grad()
        (weight - goal).square().sum().backward()
        optimizer.step()
    assert float((weight.detach() - goal).abs().max()) < 0.1
    idle = nn.Parameter(torch.ones(2, 2))
    decay = Muon([idle], lr=0.1, weight_decay=0.5)
    decay.step()
    assert bool((idle == 1).all())  # without a gradient nothing moves
    idle.grad = torch.zeros(2, 2)
    decay.step()
    torch.testing.assert_close(idle.detach(), torch.full((2, 2), 0.95))


def test_a_saved_state_goes_on_exactly() -> None:
    torch.manual_seed(3)
    goal = torch.randn(6, 10)

    def run(p: nn.Parameter, optimizer: Muon, steps: int) -> float:
        loss = torch.zeros(())
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (p - goal).square().sum()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    p = nn.Parameter(torch.zeros(6, 10))
    optimizer = Muon([p], lr=0.05)
    first = run(p, optimizer, 5)
    again = nn.Parameter(p.detach().clone())
    resumed = Muon([again], lr=0.05)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert run(p, optimizer, 30) == run(again, resumed, 30) < 0.5 * first
    torch.testing.assert_close(p, again, rtol=0, atol=0)


def test_it_takes_the_matrices_of_layers_and_neither_heads_nor_vectors_nor_depthwise_kernels() -> None:
    layer = nn.Sequential(nn.Linear(24, 24), nn.Conv1d(24, 24, 7, groups=24), nn.LayerNorm(24))
    model = nn.ModuleDict({"enter": nn.Linear(24, 24), "layers": nn.ModuleList([layer])})
    assert matrices(model) == [layer[0].weight]
    assert matrices(model["layers"]) == [layer[0].weight]


def test_muon_gets_the_matrices_of_layers_and_adamw_the_rest_vectors_without_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)]), nn.Linear(4, 5))
    adam, muon = optimizers(model, model.parameters(), 0.1, weight_decay=0.5, inner=0.2)
    decayed, vectors = adam.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 4), (5, 4)]
    assert {p.dim() for p in vectors["params"]} == {1}
    assert (decayed["weight_decay"], vectors["weight_decay"], adam.param_groups[0]["lr"]) == (0.5, 0.0, 0.1)
    assert [tuple(p.shape) for p in muon.param_groups[0]["params"]] == [(4, 4)]
    assert (muon.param_groups[0]["lr"], muon.param_groups[0]["weight_decay"]) == (0.2, 0.5)
    alone = optimizers(model, model.parameters(), 0.1, weight_decay=0.5, inner=None)
    assert [type(o) for o in alone] == [torch.optim.AdamW]
