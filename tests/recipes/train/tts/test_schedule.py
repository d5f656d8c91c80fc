"""A learner warms up, cools down, averages, and goes on from its state as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vivavoce.recipes.train.tts.schedule import Learner, OptimizerConfig, autocast


class Line:
    """Fits y = 2 x + 1."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(1, 1)

    def loss(self, step: int) -> dict[str, Tensor]:
        x = torch.randn(8, 1, generator=torch.Generator().manual_seed(step))
        return {"square": (self.model(x) - 2 * x - 1).square().mean(), "nothing": torch.zeros(())}

    def measure(self, model: nn.Module) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        assert state == {}


CONFIG = OptimizerConfig(rate=0.1, steps=60, warmup=10, cooldown=0.5, average=0.9)
CPU = torch.device("cpu")


def test_it_learns() -> None:
    learner = Learner(Line(), CONFIG, CPU)
    losses = [learner.step()["square"] for _ in range(60)]
    assert losses[-1] < 0.02 * losses[0]


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 24), nn.Linear(24, 1)
        self.layers = nn.ModuleList([nn.Linear(24, 24)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(self.layers[0](self.enter(x)))
        return out


def test_muon_takes_the_matrices_of_the_layers_and_resumes() -> None:
    class Layered(Line):
        def __init__(self) -> None:
            torch.manual_seed(0)
            self.model = Deep()

    config = replace(CONFIG, rate=0.01, muon=True)
    learner = Learner(Layered(), config, CPU)
    assert [p.shape for p in learner.optimizers[1].param_groups[0]["params"]] == [(24, 24)]
    losses = [learner.step()["square"] for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]
    other = Learner(Layered(), config, CPU)
    other.load(learner.state())
    assert other.step()["square"] == learner.step()["square"]


def test_the_rate_rises_holds_and_falls() -> None:
    learner = Learner(Line(), CONFIG, CPU)
    rates = []
    for step in (0, 9, 29, 45, 60):
        learner.step_count = step
        rates.append(learner.rate())
    assert rates == pytest.approx([0.01, 0.1, 0.1, 0.05, 0.0])


def test_stopping_changes_nothing() -> None:
    straight, stopped = Learner(Line(), CONFIG, CPU), Learner(Line(), CONFIG, CPU)
    for _ in range(10):
        straight.step()
    for _ in range(4):
        stopped.step()
    resumed = Learner(Line(), CONFIG, CPU)
    resumed.load(stopped.state())
    for _ in range(6):
        resumed.step()
    assert resumed.step_count == 10
    for name, tensor in straight.averaged().items():
        assert torch.equal(tensor, resumed.averaged()[name])


def test_the_average_lags_behind() -> None:
    learner = Learner(Line(), CONFIG, CPU)
    for _ in range(20):
        learner.step()
    weight = float(learner.averaged()["weight"])
    assert weight != float(learner.part.model.state_dict()["weight"])


def test_a_cpu_keeps_full_precision() -> None:
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
