"""A decoder's weights laid out for a CPU that only runs them: a token alone costs little more than reading them once.

`prepare` takes a decoder in eval mode from hub.py; what comes out is stepped by model.py like what went in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivavoce.speech.errors import MissingDevice
from vivavoce.speech.nn.packed import Float16Linear, Precision, supported

from .decoder import Decoder


@torch.no_grad()
def prepare(decoder: Decoder, precision: Precision | None = None) -> Decoder:
    """Make a float32 decoder fast on the CPU, in place, and return it; any other is returned as it is.

    precision: fp32 changes the order in memory and no value; fp16 holds the matrices in that, activations and sums stay
    in float32, and the decoder can no longer be trained or saved. Without one, fp16 is taken where that changes no
    weight, as for those that were stored so. Raises ValueError for a precision there is not and for a decoder in
    training; MissingDevice where this machine cannot run it.
    """
    if precision not in (None, "fp32", "fp16"):
        raise ValueError(f"precision {precision!r} is not one of fp32, fp16")
    if decoder.training:
        raise ValueError("a decoder that is being trained cannot be prepared; call eval() first")
    weight = decoder.embed.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return decoder
    able = "fp16" in supported()
    if precision == "fp16" and not able:
        raise MissingDevice("this build of torch cannot run fp16 matrices on this CPU; use fp32")
    if precision == "fp16" or (precision is None and able and all(map(_is_half, _matrices(decoder)))):
        _halve(decoder)
    else:
        for matrix in _matrices(decoder):
            matrix.data = matrix.t().contiguous().t()  # (in, out) in memory, which one row is multiplied by fastest
    return decoder.requires_grad_(False)


def _matrices(decoder: Decoder) -> list[nn.Parameter]:
    return [p for p in decoder.parameters() if p.dim() == 2]


def _is_half(x: Tensor) -> bool:
    return torch.equal(x.half().float(), x)


def _halve(decoder: Decoder) -> None:
    head = nn.Linear(decoder.config.width, decoder.config.vocabulary, bias=False, device="meta")
    head.weight = decoder.head.weight if isinstance(decoder.head, nn.Linear) else decoder.embed.weight
    decoder.head = Float16Linear(head)
    for layer in decoder.layers:
        for module, name in ((layer.attention, "qkv"), (layer.attention, "out"), (layer, "gate_up"), (layer, "down")):
            setattr(module, name, Float16Linear(getattr(module, name)))
