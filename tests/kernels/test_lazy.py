"""Importing a kernel costs nothing: triton comes with the first launch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vivavoce.kernels import lazy, registry
from vivavoce.kernels.lazy import Kernel, in_rows, power_of_2, warps


def test_on_a_cpu_triton_is_never_imported() -> None:
    code = (
        "import sys, torch\nfrom vivavoce.kernels import registry as r\n"
        "r.rms_norm(torch.ones(2, 4), torch.ones(4), 0.0), r.swiglu(torch.ones(2, 4))\n"
        "assert 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_a_kernel_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[object] = []

    class Compiled:
        def __getitem__(self, grid: tuple[int, ...]) -> object:
            return lambda *args, **options: launched.append((grid, args, options))

    compiled: list[Compiled] = []
    monkeypatch.setattr(Kernel, "jit", lambda self: compiled.append(Compiled()) or compiled[-1])
    kernel, x = Kernel(lambda: None), torch.ones(1)
    kernel([2], x, 3, BLOCK=4)
    kernel([5], x)
    assert launched == [((2,), (x, 3), {"BLOCK": 4}), ((5,), (x,), {})]
    assert len(compiled) == 1


def test_block_sizes_are_powers_of_2() -> None:
    assert [power_of_2(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
    assert power_of_2(3, 16) == 16
    assert [warps(block) for block in (1, 256, 1024, 8192)] == [1, 1, 4, 8]


def test_rows_are_a_view_of_neighbouring_heads() -> None:
    x = torch.arange(48.0).reshape(2, 2, 4, 3)[:, :, 1:3]
    assert torch.equal(in_rows(x).reshape(x.shape), x)
    assert in_rows(x).data_ptr() == x.data_ptr()
    assert in_rows(torch.ones(3)).shape == (1, 1, 3)
    assert in_rows(torch.ones(2, 3, 4).transpose(1, 2)).stride(-1) == 1


def test_without_triton_nothing_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "find_spec", lambda name: None)
    assert not lazy.installed()
    assert registry.swiglu(torch.ones(2, 4)).shape == (2, 2)
