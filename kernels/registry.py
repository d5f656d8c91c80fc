"""Each operation in the form that suits its tensors: the Triton twin on a GPU, the plain-torch reference elsewhere.

Callers import the operations from here and do not know which form runs. The reference is the definition, and what runs
on a CPU (which never imports triton), in float64, where a gradient is wanted (the twins have none), without triton.
A test that wants a twin on the CPU asks for it, `rms_norm.twin(...)`, with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, ParamSpec

import torch
from torch import Tensor

from . import cache_attention as _cache_attention
from . import conv as _conv
from . import relative_attention as _relative_attention
from . import rms_norm as _rms_norm
from . import rotary as _rotary
from . import swiglu as _swiglu
from .lazy import installed

P = ParamSpec("P")
DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})  # what the twins compute in


@dataclass(frozen=True)
class Operation(Generic[P]):
    """reference, twin: functions of the same arguments, the first a tensor; called, it is whichever suits them."""

    reference: Callable[P, Tensor]
    twin: Callable[P, Tensor]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return self.form(args[0] if args else next(iter(kwargs.values())), args, kwargs)(*args, **kwargs)

    def form(self, first: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Callable[P, Tensor]:
        if not isinstance(first, Tensor) or not first.is_cuda:  # the short way: a CPU asks for little in much haste
            return self.reference
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in given)
        floats = {x.dtype for x in given if x.is_floating_point()}
        return self.twin if installed() and floats <= DTYPES and not differentiable else self.reference


cache_attention = Operation(_cache_attention.cache_attention, _cache_attention.cache_attention_triton)
conv_step = Operation(_conv.conv_step, _conv.conv_step_triton)
relative_attention = Operation(
    _relative_attention.relative_attention, _relative_attention.relative_attention_triton
)
rms_norm = Operation(_rms_norm.rms_norm, _rms_norm.rms_norm_triton)
rotary = Operation(_rotary.rotary, _rotary.rotary_triton)
swiglu = Operation(_swiglu.swiglu, _swiglu.swiglu_triton)

OPERATIONS: Mapping[str, Operation[...]] = MappingProxyType(
    {
        "cache_attention": cache_attention,
        "conv_step": conv_step,
        "relative_attention": relative_attention,
        "rms_norm": rms_norm,
        "rotary": rotary,
        "swiglu": swiglu,
    }
)
