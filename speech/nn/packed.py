"""Linears laid out for the CPU, for an encoder that only runs.

`prepare` takes an encoder with its trained weights and replaces each linear by one that oneDNN or FBGEMM multiplies
fastest, in float32, with float16 weights, or with int8 weights. What comes out steps like the encoder that went in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from vivavoce.speech.errors import MissingDevice

from .encoder import Encoder

Precision = Literal["fp32", "fp16", "int8"]
M = TypeVar("M", bound=nn.Module)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

MANY, FEW = 127, 63  # levels of activations in 8 and in 7 bits

# The operators themselves: called through torch.ops, those that take packed weights first search their arguments, in
# Python, for tracers, which costs as much as the smaller linears.
_float16_linear = torch.ops.quantized.linear_dynamic_fp16.default._op
_int8_linear = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default._op


class PackedLinear(nn.Module):
    """y = x Wᵀ + b for x (..., in). A row of y depends on its own row of x only, whatever else is in the batch."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features

    def _save_to_state_dict(self, destination: object, prefix: str, keep_vars: bool) -> None:
        raise RuntimeError(f"{prefix[:-1]} is packed for running and has no weights to save; save before prepare()")


class Float32Linear(PackedLinear):
    """float32 weights in oneDNN's own blocks: torch would lay them out anew for every call."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.register_buffer("bias", _own(linear.bias))
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach()))
        self.operator = _float32_linear()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.operator(x, self.weight, self.bias)
        return y


@cache
def _float32_linear() -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """oneDNN's linear as TorchScript, which can write down a call that `torch.jit.trace` cannot."""
    unit = torch.jit.CompilationUnit("""
        def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    """)
    return unit.linear  # type: ignore[no-any-return]


def _own(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()


class Float16Linear(PackedLinear):
    """float16 weights, widened as they are read; activations and sums stay in float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.weight = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), _own(linear.bias))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _float16_linear(x, self.weight)
        return y


class Int8Linear(PackedLinear):
    """int8 weights with one scale for each output, activations in 8 or 7 bits with one scale for each row; sums in
    int32.

    Sums of integers do not depend on their order, so a row's result is the same to the bit in any company. A rounding
    that falls differently is one part in 2 `levels` of the row's largest activation: streaming and offline then differ
    by as much as either differs from float32, which is the price of this setting.
    """

    offset: Tensor

    def __init__(self, linear: nn.Linear, levels: int | None = None) -> None:
        """levels: steps from 0 to a row's largest activation; by default as many as this CPU adds up exactly."""
        super().__init__(linear)
        self.levels = levels or exact_levels() or FEW
        weight = linear.weight.detach()
        scale = (weight.abs().amax(1) / 127).clamp(min=1e-30).double()
        whole = torch.quantize_per_channel(weight, scale, torch.zeros_like(scale, dtype=torch.int64), 0, torch.qint8)
        self.weight = torch.ops.quantized.linear_prepack(whole, None)
        bias = _own(linear.bias)
        self.register_buffer("offset", torch.zeros(self.out_features) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        peak = x.abs().amax(-1, keepdim=True)  # a row of silence becomes NaN and some integer, then times 0 again
        y = _int8_linear(x / peak, 1 / self.levels, self.levels + 1, self.weight)
        return torch.addcmul(self.offset, y, peak)


@cache
def exact_levels() -> int:
    """How finely activations may be rounded on this CPU, as `Int8Linear` has it; 0 where no sum can be trusted.

    CPUs without VNNI add products in pairs, cut off at 16 bits: twice 255 * 127 overflows there, twice 127 * 127, all
    that 7 bits can make, does not.
    """
    linear = nn.Linear(64, 16, bias=False)
    nn.init.ones_(linear.weight)
    signs = torch.tensor([[1.0], [-1.0]]).expand(2, 64)
    for levels in (MANY, FEW):
        if bool((Int8Linear(linear, levels)(signs).round() == 64 * signs[:, :16]).all()):
            return levels
    return 0


KINDS: dict[Precision, type[PackedLinear]] = {"fp32": Float32Linear, "fp16": Float16Linear, "int8": Int8Linear}


@torch.no_grad()
def prepare(encoder: Encoder, precision: Precision = "fp32") -> Encoder:
    """Make an encoder fast on the CPU, in place, and return it. It can no longer be trained or saved.

    precision: fp32 changes nothing but rounding; fp16 and int8 hold the weights in that, and int8 rounds
    activations to 8 bits too, so that streaming equals offline only to within its own error. Raises ValueError for a
    precision there is not and for an encoder in training; MissingDevice where this machine cannot run it.
    """
    if precision not in KINDS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if encoder.training:
        raise ValueError("a packed encoder cannot be trained; call eval() first, on a copy if you train on")
    check_supported(encoder, precision)
    encoder.tabulate()
    _replace(encoder, nn.Linear, KINDS[precision])
    encoder.record()
    return encoder.requires_grad_(False)


def check_supported(encoder: Encoder, precision: Precision) -> None:
    """Raises MissingDevice, saying what to use instead."""
    weight = next(encoder.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise MissingDevice(
            f"packed linears start from float32 weights on the CPU, and these are {weight.dtype} on "
            f"{weight.device}; leave the encoder as it is, or move it with .to('cpu', torch.float32)"
        )
    able = supported()
    if precision not in able:
        raise MissingDevice(
            f"this build of torch cannot run {precision} linears on this CPU; use "
            f"{' or '.join(able) or 'the encoder as it is'}"
        )


def supported() -> list[Precision]:
    """The precisions that this build of torch can run on this CPU."""
    fbgemm = "fbgemm" in torch.backends.quantized.supported_engines
    able: dict[Precision, bool] = {
        "fp32": torch.backends.mkldnn.is_available(),
        "fp16": fbgemm,
        "int8": fbgemm and exact_levels() > 0,
    }
    return [precision for precision, it_can in able.items() if it_can]


def _replace(module: nn.Module, kind: type[M], by: Callable[[M], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, kind):
            setattr(module, name, by(child))
        else:
            _replace(child, kind, by)
