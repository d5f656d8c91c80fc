"""Decoding as CUDA graphs: one replay for a token of every session, captured once a batch size.

The engine hands in a token a slot; `LanguageModel.decode` is what is captured, over the first 1, 2, 4 ... slots, so
that a few sessions do not pay for all. State keeps its addresses, which is what lets a graph hold them. Written for a
GPU and not yet run on one; elsewhere the engine takes the eager way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .model import DecoderState, LanguageModel

Replay = Callable[[], Tensor]
WARM = 3  # eager runs before a capture: libraries choose their kernels in them


class DecodeGraphs:
    """state: the one that is decoded into, always; capture: makes a replay of a function without arguments."""

    def __init__(
        self, model: LanguageModel, state: DecoderState, capture: Callable[[Callable[[], Tensor]], Replay] | None = None
    ) -> None:
        self.model, self.state, self.capture = model, state, capture or captured
        slots, device = state.cache.length.shape[0], state.cache.length.device
        self.tokens = torch.zeros(slots, dtype=torch.int64, device=device)
        self.active = torch.zeros(slots, dtype=torch.bool, device=device)
        self.sizes = sorted({*(min(2**i, slots) for i in range(slots.bit_length())), slots})
        self.replays: dict[int, Replay] = {}

    @torch.no_grad()
    def __call__(self, tokens: Tensor, counts: Sequence[int]) -> Tensor:
        """tokens: (slots,); counts: of each slot 1 or 0. Returns (slots, width), zero for slots without a token; the
        next call writes over it."""
        need = max(i for i, n in enumerate(counts) if n) + 1
        size = next(s for s in self.sizes if s >= need)
        if size not in self.replays:
            self.active.zero_()  # what warming and capturing run changes nothing
            self.replays[size] = self.capture(lambda: self._decode(size))
        self.tokens.copy_(tokens)
        self.active.copy_(torch.tensor([n == 1 for n in counts], device=self.active.device))
        hidden = self.replays[size]()
        out = hidden.new_zeros(len(tokens), hidden.shape[1])
        out[:size] = torch.where(self.active[:size, None], hidden, 0)
        return out

    def _decode(self, size: int) -> Tensor:
        entries = self.model.policy.entries
        return self.model.decode(self.tokens[:size], self.state, self.active[:size], used=entries)


def captured(run: Callable[[], Tensor]) -> Replay:
    """A CUDA graph of `run`, whose result stays at one address."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay
