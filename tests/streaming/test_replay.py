"""Replays: what comes out and what is written is what the layers themselves give, with each layer's own weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from vivavoce.streaming.replay import Replays


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + self.shift
        return y


class Remembering(nn.Module):
    """x plus what came before, which it keeps; by another way for long inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = Inner(), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor, memory: Tensor, *bonus: Tensor) -> Tensor:
        y: Tensor = self.inner(x) * self.scale + memory
        if x.shape[0] > 2:
            y = y.tanh()
        memory.copy_(y.mean(0))
        return y + bonus[0] if bonus else y


@pytest.fixture
def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Remembering().requires_grad_(False) for _ in range(3)]


def through(
    replays: Replays | None, layers: list[nn.Module], x: Tensor, memories: list[Tensor], *bonus: Tensor
) -> Tensor:
    made = replays.of((x.shape, len(bonus)), x, memories[0], *bonus) if replays else None
    for layer, memory in zip(made or layers, memories, strict=True):
        x = layer(x, memory, *bonus)
    return x


@pytest.mark.parametrize("after", [0, 2])
def test_a_replay_is_the_layers_to_the_bit(layers: list[nn.Module], after: int) -> None:
    replays = Replays(layers, after)
    ours, theirs = ([torch.zeros(4) for _ in layers] for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    for n in (1, 1, 2, 3, 1, 3, 3, 2, 3, 1, 1):
        x, bonus = torch.randn(n, 4, generator=generator), (torch.ones(4),) * (n == 1)
        assert torch.equal(through(replays, layers, x, ours, *bonus), through(None, layers, x, theirs, *bonus))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_is_rare_is_not_recorded_and_the_oldest_is_forgotten(layers: list[nn.Module]) -> None:
    replays = Replays(layers, after=1, keep=2)
    x, memory = torch.zeros(1, 4), torch.zeros(4)
    assert replays.of("a", x, memory) is None
    made = replays.of("a", x, memory)
    assert made is not None
    assert replays.of("a", x, memory) is made
    for kind in ("b", "c"):
        assert replays.of(kind, x, memory) is None
        assert replays.of(kind, x, memory) is not None
    assert replays.of("a", x, memory) is None
    assert replays.of("c", x, memory) is not None


def test_recording_leaves_its_example_and_the_weights_alone(layers: list[nn.Module]) -> None:
    before = copy.deepcopy([layer.state_dict() for layer in layers])
    memory = torch.full((4,), 2.0)
    assert Replays(layers, after=0).of("a", torch.ones(1, 4), memory) is not None
    assert memory.tolist() == [2.0] * 4
    for layer, state in zip(layers, before, strict=True):
        assert all(torch.equal(layer.state_dict()[name], value) for name, value in state.items())


def test_a_replay_shares_the_weights(layers: list[nn.Module]) -> None:
    replay = Replays(layers, after=0)
    made = replay.of("a", torch.ones(1, 4), torch.zeros(4))
    assert made is not None
    layers[1].get_parameter("scale").zero_()
    assert made[1](torch.ones(1, 4), torch.zeros(4)).abs().max() == 0
