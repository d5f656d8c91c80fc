"""What both trainings share: how the rate moves, how weights are averaged, and how a run is saved and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vivavoce.recipes.train.muon import optimizers


@dataclass(frozen=True)
class OptimizerConfig:
    """steps: length of the run; the rate warms up linearly, holds, and falls linearly to 0 over the last `cooldown`
    share. average: decay of the moving average of the weights, which is what is exported. muon: the matrices of the
    layers are updated by Muon, all else by AdamW as ever."""

    rate: float = 1e-3
    steps: int = 4000
    warmup: int = 100
    cooldown: float = 0.4
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.998
    muon: bool = False


class Part(Protocol):
    """One of a voice's models in training; `Learner` steps it."""

    model: nn.Module

    def loss(self, step: int) -> dict[str, Tensor]:
        """The losses of the step-th batch, to be added up; the same whenever it is asked for."""
        ...

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Figures on recordings never trained on."""
        ...

    def state(self) -> dict[str, Any]: ...
    def load(self, state: Mapping[str, Any]) -> None: ...


class Learner:
    """Moves a part on, one update a `step`; `state` and `load` make it resumable from any step."""

    def __init__(self, part: Part, config: OptimizerConfig, device: torch.device) -> None:
        self.part, self.config, self.device, self.step_count = part, config, device, 0
        self.parameters = [p for p in part.model.parameters() if p.requires_grad]
        self.optimizers = optimizers(part.model, self.parameters, config.rate, weight_decay=config.weight_decay,
                                     inner=config.rate if config.muon else None)
        self.average = {name: p.detach().clone() for name, p in part.model.named_parameters()}

    def rate(self) -> float:
        c, step = self.config, self.step_count
        warm = min(1.0, (step + 1) / max(c.warmup, 1))
        cool = max(0.0, (c.steps - step) / max(c.cooldown * c.steps, 1.0))
        return c.rate * min(warm, cool, 1.0)

    def step(self) -> dict[str, float]:
        """One update; returns the losses."""
        self.part.model.train()
        for group in chain.from_iterable(o.param_groups for o in self.optimizers):
            group["lr"] = self.rate()
        torch.manual_seed(self.step_count)
        with autocast(self.device):
            losses = self.part.loss(self.step_count)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step_count += 1
        self._update_average()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.config.average, (1 + self.step_count) / (10 + self.step_count))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.part.model.parameters()], 1 - keep)

    def averaged(self) -> dict[str, Tensor]:
        """The model's state with averaged weights, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in
                {**self.part.model.state_dict(), **self.average}.items()}

    def state(self) -> dict[str, Any]:
        return {"step": self.step_count, "model": self.part.model.state_dict(), "average": self.average,
                "optimizers": [o.state_dict() for o in self.optimizers], "part": self.part.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.step_count = state["step"]
        self.part.model.load_state_dict(state["model"])
        self.average = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.part.load(state["part"])


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU; on a CPU, full precision."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
