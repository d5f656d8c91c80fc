"""Muon, the optimiser of weight matrices: momentum made orthogonal.

Jordan et al. 2024, kellerjordan.github.io/posts/muon. A small model needs about half the tokens that it
would with AdamW, which is what counts on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_TERMS = (3.4445, -4.7750, 2.0315)  # of the iteration; its singular values end within about 0.7 to 1.2


def orthogonal(x: Tensor, rounds: int = 5) -> Tensor:
    """Near U Vᵀ of x = U S Vᵀ, (rows, columns), by Newton-Schulz iterations of a quintic; no decomposition."""
    a, b, c = _TERMS
    y = x if x.shape[0] <= x.shape[1] else x.T
    y = y / (y.norm() + 1e-7)
    for _ in range(rounds):
        square = y @ y.T
        y = a * y + (b * square + c * (square @ square)) @ y
    out: Tensor = y if x.shape[0] <= x.shape[1] else y.T
    return out


class Muon(torch.optim.Optimizer):
    """params: matrices only; rate: of a step whose root mean square is that of AdamW's at 0.2 of it; momentum is
    Nesterov's."""

    def __init__(self, params: Iterable[Tensor], rate: float, *, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        kept: Tensor = self.state[p].setdefault("momentum", torch.zeros_like(p))
        kept.lerp_(p.grad, 1 - group["momentum"])
        step = orthogonal(torch.lerp(p.grad, kept, group["momentum"]))
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(step, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)
