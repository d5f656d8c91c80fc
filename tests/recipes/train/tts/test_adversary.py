"""Critics learn to tell noise from tones, and what they then ask for has a gradient."""

from __future__ import annotations

import math

import torch

from vivavoce.recipes.train.tts.adversary import Adversary


def test_critics_learn_and_persuade() -> None:
    torch.manual_seed(0)
    critics = Adversary(4)
    real = torch.sin(2 * math.pi * 200 * torch.arange(3000) / 24_000).expand(2, -1) * 0.3
    made = (torch.randn(2, 3000) * 0.1).requires_grad_()
    optimizer = torch.optim.Adam(critics.parameters(), lr=1e-2)
    first = float(critics.judge(made, real).detach())
    for _ in range(8):
        optimizer.zero_grad()
        loss = critics.judge(made, real)
        loss.backward()
        optimizer.step()
    assert made.grad is None  # judging teaches the critics alone
    assert float(loss.detach()) < 0.7 * first
    critics.persuade(made, real).backward()
    assert made.grad is not None
    assert float(made.grad.abs().max()) > 0
    assert float(critics.persuade(real, real).detach()) < float(critics.persuade(made.detach(), real).detach())
