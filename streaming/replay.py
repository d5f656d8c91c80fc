"""A stack of layers run without Python between their operators: for a CPU what a CUDA graph is for a GPU.

A step over one chunk of one session is a thousand small operators, and Python's way from each to the next costs as much
as they do. Here TorchScript records what the first layer does with arguments of one kind, and every layer replays that
with weights of its own: the same operators on the same values, so the same result to the bit.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

Replay = Callable[..., Tensor]
AFTER = 24  # a recording costs about as much time as it saves in so many steps of a small model
ONE_AT_A_TIME = Lock()  # torch.jit.trace knows one tracing a process
KEEP = 64  # kinds of arguments remembered; one more, and the oldest is forgotten


class Replays:
    """layers: of one make, they differ in their weights (parameters, buffers, packed weights) alone, which are final.
    Each takes tensors and returns one; it may branch on shapes, never on values, and may write into arguments."""

    def __init__(self, layers: Sequence[nn.Module], after: int = AFTER, keep: int = KEEP) -> None:
        self.layers, self.after, self.keep = layers, after, keep
        self._asked: Counter[Hashable] = Counter()
        self._made: dict[Hashable, list[Replay]] = {}

    def of(self, kind: Hashable, *example: Tensor) -> list[Replay] | None:
        """One replay a layer; None where this kind of arguments is new, so that recording it may not be worth while.

        kind: all that the layers' ways through their code depend on, shapes above all; example: arguments of the first
        layer, which are left as they are.
        """
        if (made := self._made.get(kind)) is not None:
            return made
        self._asked[kind] += 1
        if self._asked[kind] <= self.after:
            return None
        made = self._made[kind] = _record(self.layers, example)
        for old in list(self._made)[: -self.keep]:
            self._made.pop(old, None)
            self._asked.pop(old, None)
        return made


@torch.no_grad()
def _record(layers: Sequence[nn.Module], example: Sequence[Tensor]) -> list[Replay]:
    with ONE_AT_A_TIME, warnings.catch_warnings():
        # TorchScript is no longer developed, and warns wherever a shape becomes a constant, which is what is wanted
        warnings.simplefilter("ignore")
        first = torch.jit.trace(layers[0], tuple(x.clone() for x in example), check_trace=False)._c
    graph = first._get_method("forward").graph
    torch._C._jit_pass_inline(graph)
    torch._C._jit_pass_constant_propagation(graph)  # numbers computed from shapes
    return [_with_weights_of(layer, first)._get_method("forward") for layer in layers]


def _with_weights_of(layer: nn.Module, recording: Any) -> Any:
    """The recording once more, sharing its code but not its weights."""
    made = recording._replicate_for_data_parallel()
    for name, value in _values(layer):
        if recording.hasattr(name):
            made.setattr(name, value)
    for name, child in layer.named_children():
        if recording.hasattr(name):
            made.setattr(name, torch.jit._recursive.wrap_cpp_module(_with_weights_of(child, recording.getattr(name))))
    return made


def _values(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    """Its own parameters, buffers and packed weights."""
    yield from layer.named_parameters(recurse=False)
    yield from layer.named_buffers(recurse=False)
    yield from ((name, value) for name, value in vars(layer).items() if isinstance(value, torch.ScriptObject))
