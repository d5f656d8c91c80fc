"""A step of the convolution is its formula in a plain loop, and steps of any length are one pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from twins import check, moved, of_twin

from vivavoce.kernels import registry
from vivavoce.kernels.conv import conv_step

EPS = 1e-5


def case(batch: int, frames: int, width: int, kernel: int, valid: list[int]) -> list[Tensor | float]:
    """The operation's arguments in fp64."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, memory, weight = normal(batch, frames, 2 * width), normal(batch, kernel - 1, width), normal(width, kernel)
    return [x, memory, weight, normal(width), normal(width), normal(width), EPS, torch.tensor(valid)]


def clones(inputs: list[Tensor | float]) -> list[Tensor | float]:
    return [x.clone() if isinstance(x, Tensor) else x for x in inputs]


def naive(inputs: list[Tensor | float]) -> tuple[Tensor, Tensor]:
    """One frame and channel at a time. Returns the outputs and the memory after them."""
    x, memory, weight, bias, norm_weight, norm_bias, _, valid = (torch.as_tensor(i) for i in inputs)
    slots, frames, width = x.shape[0], x.shape[1], x.shape[2] // 2
    out, after = torch.zeros(slots, frames, width, dtype=x.dtype), memory.clone()
    for b in range(slots):
        rows = memory[b].tolist()
        for t in range(frames):
            heard = t < int(valid[b])
            rows.append([float(x[b, t, c]) / (1 + math.exp(-float(x[b, t, width + c]))) if heard else 0.0
                         for c in range(width)])  # fmt: skip
            y = [sum(rows[t + j][c] * float(weight[c, j]) for j in range(weight.shape[1])) + float(bias[c])
                 for c in range(width)]  # fmt: skip
            mean = sum(y) / width
            root = math.sqrt(sum((v - mean) ** 2 for v in y) / width + EPS)
            for c in range(width):
                v = (y[c] - mean) / root * float(norm_weight[c]) + float(norm_bias[c])
                out[b, t, c] = v / (1 + math.exp(-v))
        first = int(valid[b])
        after[b] = torch.tensor(rows[first : first + memory.shape[1]]).reshape(after[b].shape)
    return out, after


CASES = [(1, 1, 3, 4, [1]), (2, 3, 5, 4, [3, 1]), (3, 6, 4, 3, [6, 0, 2]), (1, 2, 3, 1, [2]), (1, 15, 4, 3, [15])]


@pytest.mark.parametrize("shape", CASES, ids=str)
def test_it_equals_a_loop_over_frames_and_channels(shape: tuple[int, int, int, int, list[int]]) -> None:
    inputs = case(*shape)
    y, memory = naive(inputs)
    assert (conv_step(*inputs) - y).abs().max() <= 1e-12  # type: ignore[arg-type]
    assert torch.allclose(torch.as_tensor(inputs[1]), memory.float().double(), atol=1e-6)


def test_any_split_into_steps_is_one_pass() -> None:
    inputs = case(1, 9, 4, 5, [9])
    x, rest = torch.as_tensor(inputs[0]), inputs[1:-1]
    whole = conv_step(*clones(inputs))  # type: ignore[arg-type]
    parts = [conv_step(part, *rest, torch.tensor([part.shape[1]])) for part in x.split([2, 1, 6], 1)]  # type: ignore[arg-type]
    assert (torch.cat(parts, 1) - whole).abs().max() <= 1e-12


def test_where_all_frames_count_nothing_need_be_said() -> None:
    told, plain = case(2, 20, 3, 4, [20, 20]), case(2, 20, 3, 4, [])
    assert torch.equal(conv_step(*told), conv_step(*plain[:-1], None))  # type: ignore[arg-type]
    assert torch.equal(torch.as_tensor(told[1]), torch.as_tensor(plain[1]))


@of_twin
@pytest.mark.parametrize("shape", CASES[1:], ids=str)
def test_the_twin_errs_no_more_than_twice_as_much(
    dtype: torch.dtype, shape: tuple[int, int, int, int, list[int]]
) -> None:
    inputs = case(*shape)
    check(registry.conv_step, inputs, dtype)
    check(registry.conv_step, [*inputs[:3], None, *inputs[4:-1], None], dtype)


@of_twin
@pytest.mark.parametrize("shape", CASES[1:3], ids=str)
def test_the_twin_leaves_the_same_memory(dtype: torch.dtype, shape: tuple[int, int, int, int, list[int]]) -> None:
    low = [moved(x, dtype) for x in case(*shape)]
    plain = clones(low)
    registry.conv_step.twin(*low)
    registry.conv_step.reference(*plain)
    eps = torch.finfo(dtype).eps
    assert torch.allclose(torch.as_tensor(low[1]), torch.as_tensor(plain[1]), rtol=2 * eps, atol=eps)
