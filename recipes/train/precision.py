"""bfloat16 for a training step where it pays: matrix products in it, weights, sums and what is delicate in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = {torch.conv1d, torch.conv2d}


class _Float32Convolutions(TorchFunctionMode):
    """On a CPU the gradients of depthwise convolutions take three times as long in bfloat16 as in float32."""

    def __torch_function__(self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:  # fmt: skip
        if func not in _CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        exact: list[Any] = [a.float() if isinstance(a, Tensor) else a for a in args]
        with torch.autocast("cpu", enabled=False):
            return func(*exact, **(kwargs or {}))


@contextmanager
def mixed(device: torch.device, bfloat16: bool | None = None) -> Iterator[None]:
    """What is computed inside is in bfloat16 where torch's autocast thinks it safe. None: on a GPU. Of CPUs
    it is for those with instructions for it (AVX512-BF16, AMX)."""
    wanted = device.type == "cuda" if bfloat16 is None else bfloat16
    with torch.autocast(device.type, torch.bfloat16, enabled=wanted):
        if wanted and device.type == "cpu":
            with _Float32Convolutions():
                yield
        else:
            yield
