"""Stages end to end: PCM -> features -> encoder -> decoder as one stage.

Before each stage that works in chunks a queue holds what has not yet filled one. The chain's state is the tuple of its
stages' states and queues, so one copy still moves a whole session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .buffers import Fifo
from .errors import StateMismatch
from .stage import Stage, StageSpec
from .state import State

AnyStage = Stage[Any, Any, Any]


@dataclass(frozen=True, eq=False)
class ChainState(State):
    """stages[i] belongs to stage i; queues[i] waits before it and is an empty tuple for a stage without chunks."""

    stages: tuple[State, ...]
    queues: tuple[Fifo | tuple[()], ...]


class Chain:
    """Runs stages one after another; itself a `Stage`.

    block: a chunked stage takes as many whole chunks at once as fit into this many of its inputs (at least one), so a
        whole file goes through in few large steps and memory stays bounded.
    """

    def __init__(self, stages: Sequence[AnyStage], *, item_shapes: Sequence[tuple[int, ...]], like: Tensor,
                 max_lookahead: int = 69, block: int = 1120) -> None:
        """item_shapes[i]: shape of one item entering stage i; like: a tensor of the dtype and device of the queues."""
        if len(item_shapes) != len(stages):
            raise ValueError(f"{len(stages)} stages need as many item shapes, not {len(item_shapes)}")
        self.stages, self.item_shapes, self.like = tuple(stages), tuple(item_shapes), like
        self.max_lookahead, self.block = max_lookahead, block

    @property
    def spec(self) -> StageSpec:
        return StageSpec(self.stages[0].spec.in_hz, self.stages[-1].spec.out_hz)

    def init_state(self, slots: int) -> ChainState:
        return ChainState(
            stages=tuple(stage.init_state(slots) for stage in self.stages),
            queues=tuple(self._queue(stage.spec, shape, slots)
                         for stage, shape in zip(self.stages, self.item_shapes, strict=True)),
        )

    def _queue(self, spec: StageSpec, shape: tuple[int, ...], slots: int) -> Fifo | tuple[()]:
        if not spec.chunk:
            return ()
        return Fifo.empty(slots, spec.chunk_items(self.max_lookahead) + self.block, shape, self.like, head=spec.head)

    @torch.no_grad()
    def step(self, x: Any, state: ChainState, valid: Tensor, final: Tensor, lookahead: int = 0) -> tuple[Any, Tensor]:
        """See `Stage.step`. Returns the last stage's output; its items are tensors (slots, m, ...)."""
        if len(state.stages) != len(self.stages):
            raise StateMismatch(f"a state of {len(state.stages)} stages was given to a chain of {len(self.stages)}")
        return self._run(0, x, state, valid, final, lookahead)

    def _run(self, i: int, x: Any, state: ChainState, valid: Tensor, final: Tensor,
             lookahead: int) -> tuple[Any, Tensor]:
        if i == len(self.stages):
            return x, valid
        stage, queue = self.stages[i], state.queues[i]
        if not isinstance(queue, Fifo):
            y, count = stage.step(x, state.stages[i], valid, final, lookahead)
            return self._run(i + 1, y, state, count, final, lookahead)
        outputs: list[tuple[Any, Tensor]] = []
        pushed, ending = 0, final
        while not outputs or pushed < x.shape[1]:
            part = x[:, pushed : pushed + self.block]
            queue.push_(part, (valid - pushed).clamp(0, part.shape[1]))
            pushed += part.shape[1]
            now = ending & (valid <= pushed)
            outputs += self._drain(i, state, queue, now, lookahead)
            ending = ending & ~now  # a row ends once
        return join(outputs)

    def _drain(self, i: int, state: ChainState, queue: Fifo, final: Tensor, lookahead: int) -> list[tuple[Any, Tensor]]:
        """Step stage i (and all after it) over every chunk that is complete; over the rest too where final."""
        spec = self.stages[i].spec
        size = spec.chunk_items(lookahead)
        whole = max(1, self.block // size) * size
        outputs = []
        while True:
            ends = final & (queue.count <= whole)
            taken = torch.where(ends, queue.count, (queue.count // size * size).clamp(max=whole))
            n = -(-int(taken.max()) // spec.chunk) * spec.chunk
            y, count = self.stages[i].step(queue.pop_(n, taken), state.stages[i], taken, ends, lookahead)
            outputs.append(self._run(i + 1, y, state, count, ends, lookahead))
            final = final & ~ends
            if not (bool(final.any()) or bool((queue.count >= size).any())):
                return outputs


def join(outputs: list[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    """Several ragged outputs of one stage, first to last, as one: rows keep their own counts, left-aligned."""
    if len(outputs) == 1:
        return outputs[0]
    counts = torch.stack([count for _, count in outputs])
    total = counts.sum(0)
    width = int(total.max())

    def joined(*parts: Tensor) -> Tensor:
        out = parts[0].new_zeros((parts[0].shape[0], width, *parts[0].shape[2:]))
        for row in range(out.shape[0]):
            kept = [part[row, : int(counts[k, row])] for k, part in enumerate(parts)]
            out[row, : int(total[row])] = torch.cat(kept)
        return out

    first = outputs[0][0]
    if isinstance(first, Tensor):
        return joined(*(y for y, _ in outputs)), total
    return type(first)(*(joined(*fields) for fields in zip(*(y for y, _ in outputs), strict=True))), total
