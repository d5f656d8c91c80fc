"""What every Triton twin is held to: at most twice the error (root mean square)
of plain torch in the same dtype, against float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from vivavoce.kernels.lazy import installed
from vivavoce.kernels.registry import Operation

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_needs_triton = pytest.mark.skipif(not installed(), reason="triton is not installed")
_numpy = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # of triton's interpreter
# triton's interpreter cuts where it should round to bfloat16, so that type is for a GPU alone
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE.type == "cuda" else [])


def of_twin(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test of a twin: once for each `dtype`."""
    return _needs_triton(_numpy(pytest.mark.parametrize("dtype", DTYPES, ids=str)(test)))


def moved(x: object, dtype: torch.dtype) -> Any:
    """Floating tensors as values of this dtype, on the device that runs the twins."""
    return x.to(DEVICE, dtype if x.is_floating_point() else x.dtype) if isinstance(x, Tensor) else x


def check(operation: Operation[...], inputs: Sequence[object], dtype: torch.dtype, exact: Sequence[int] = ()) -> Tensor:
    """inputs: the operation's, in float64; those numbered in `exact` (tables) are float32 at least. Returns the
    twin's answer."""
    low = [moved(x, torch.float32 if i in exact else dtype) for i, x in enumerate(inputs)]
    truth = operation.reference(*(moved(x, torch.float64) for x in low))
    again = [x.clone() if isinstance(x, Tensor) else x for x in low]  # some operations write
    twin, plain = operation.twin(*low), operation.reference(*again)
    assert twin.dtype == plain.dtype
    assert twin.shape == plain.shape
    assert twin.device == plain.device
    assert twin.isfinite().all()

    def size(y: Tensor) -> float:
        return float(y.double().square().mean().sqrt()) if y.numel() else 0.0

    rounding = torch.finfo(dtype).eps / 4 * size(truth)  # where plain torch happens to be exact
    error, allowed = size(twin.double() - truth), size(plain.double() - truth)
    assert error <= 2 * max(allowed, rounding), f"{error:.1e}, where plain torch errs by {allowed:.1e}"
    return twin
