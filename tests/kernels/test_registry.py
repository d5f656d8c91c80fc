"""The registry runs the reference on a CPU, and the twin only where it can answer."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from vivavoce.kernels import registry
from vivavoce.kernels.registry import OPERATIONS, Operation


class OnGpu(torch.Tensor):
    """Says that it lies on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def on_gpu(dtype: torch.dtype) -> OnGpu:
    return torch.ones(2, 4, dtype=dtype).as_subclass(OnGpu)


def form(operation: Operation[...], *args: Any) -> Any:
    return operation.form(args[0], args, {})


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_forms_take_the_same_arguments(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation is getattr(registry, name)
    assert inspect.signature(operation.reference) == inspect.signature(operation.twin)
    assert operation.twin.__doc__


def test_nobody_can_change_it() -> None:
    with pytest.raises(TypeError):
        OPERATIONS["swiglu"] = OPERATIONS["rotary"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        OPERATIONS["swiglu"].twin = OPERATIONS["rotary"].twin  # type: ignore[misc]


def test_a_cpu_runs_the_reference_to_the_bit() -> None:
    x, w = torch.randn(3, 8), torch.randn(8)
    assert torch.equal(registry.rms_norm(x, w, 1e-6), registry.rms_norm.reference(x, w, 1e-6))
    assert torch.equal(registry.rms_norm(x=x, weight=w, eps=1e-6), registry.rms_norm.reference(x, w, 1e-6))
    assert form(registry.swiglu, x) is registry.swiglu.reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_gpu_runs_the_twin(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda: True)
    assert form(registry.swiglu, on_gpu(dtype)) is registry.swiglu.twin


def test_what_the_twins_cannot_do_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda: True)
    operation = registry.swiglu
    assert form(operation, on_gpu(torch.float64)) is operation.reference
    trained = on_gpu(torch.float32).requires_grad_()
    assert form(operation, trained) is operation.reference
    with torch.no_grad():
        assert form(operation, trained) is operation.twin
    monkeypatch.setattr(registry, "installed", lambda: False)
    assert form(operation, on_gpu(torch.float32)) is operation.reference
