"""Muon: momentum made orthogonal, for the weight matrices inside a network (Jordan et al. 2024; arXiv 2502.16982).

Matrices come from a trainer, which leaves embeddings, heads, convolutions and vectors to AdamW. Updates are as large as
AdamW's, so one learning rate serves both. torch's own Muon computes in bfloat16, one matrix at a time: fifteen times
slower on a CPU without bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# x <- a x + b (x x') x + c (x x')^2 x, the best quintic of each step in turn (Polar Express, arXiv 2505.16932)
QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)
MARGIN = 1.01  # the quintics want no singular value above 1; rounding may add a little
AS_ADAMW = 0.2  # root mean square of AdamW's updates, about (arXiv 2502.16982)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """What Muon takes of a model: the weight matrices of its layers, whatever lies in a list of modules; a depthwise
    convolution's kernels are none."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    found = {id(p): p for layers in lists for p in layers.parameters() if p.dim() > 1 and p.shape[1] > 1}
    return list(found.values())


def orthogonal(g: Tensor) -> Tensor:
    """The nearest matrix whose singular values are all about 1, of each of (..., rows, columns)."""
    x = g / (g.norm(dim=(-2, -1), keepdim=True) * MARGIN + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    # all steps are one polynomial of x x', whose side is the shorter one: it alone is iterated
    gram, step, whole = x @ x.mT, None, None
    for a, b, c in QUINTICS:
        gram = gram if step is None else step @ gram @ step
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = step if whole is None else step @ whole
    x = whole @ x
    y: Tensor = x.mT if tall else x
    return y


class Muon(torch.optim.Optimizer):
    """params: at least two-dimensional; what lies behind the first dimension counts as one. Matrices of one shape are
    computed together. weight_decay as AdamW's."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95,
                 weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; no closure is asked."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for shape, members in alike.items():
                self._update(members, shape, group)

    def _update(self, members: list[Tensor], shape: tuple[int, int], group: dict[str, Any]) -> None:
        moments = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in members]
        gradients = [p.grad for p in members if p.grad is not None]
        torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, moments, group["momentum"])  # Nesterov
        made = orthogonal(torch.stack([a.reshape(shape) for a in ahead]))
        torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
        size = group["lr"] * AS_ADAMW * max(shape) ** 0.5
        torch._foreach_add_(members, [m.view_as(p) for m, p in zip(made, members, strict=True)], alpha=-size)


def optimizers(model: nn.Module, parameters: Iterable[nn.Parameter], rate: float, *, weight_decay: float,
               inner: float | None) -> list[torch.optim.Optimizer]:
    """Who updates what of `parameters`: Muon the matrices of the model's layers at the rate `inner`, AdamW all else at
    `rate`, vectors without decay. inner: None for AdamW alone. In this order: AdamW, then Muon."""
    everything = list(parameters)
    within = {id(p) for p in matrices(model)} if inner is not None else set()
    taken = [p for p in everything if id(p) in within]
    rest = [p for p in everything if id(p) not in within]
    adam = torch.optim.AdamW([{"params": [p for p in rest if p.dim() > 1], "weight_decay": weight_decay},
                              {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0}],
                             lr=rate, betas=(0.9, 0.98), fused=True)
    return [adam, Muon(taken, inner, weight_decay=weight_decay)] if inner is not None and taken else [adam]
