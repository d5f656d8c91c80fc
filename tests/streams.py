"""What every stage's tests share: cut inputs into ragged pushes, run them through an engine, compare with one pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vivavoce.speech.asr.words import tokens_of
from vivavoce.streaming.engine import Engine
from vivavoce.streaming.state import slots_tensor


def cut(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Pieces of x (n, ...) of the given sizes, cycled until nothing is left."""
    out, at, i = [], 0, 0
    while at < len(x):
        out.append(x[at : at + sizes[i % len(sizes)]])
        at, i = at + len(out[-1]), i + 1
    return out or [x]


def shuffled(stage: Any, x: Tensor, lengths: Sequence[int], seed: int, pad: float = 0.0) -> tuple[list[list[Any]], Any]:
    """What each session of a decoder says, and the state after all: fed ragged chunks, with slots exchanged after each.

    x: (slots, n, ...), of which the first `lengths[s]` count; pad: what stands where nothing counts. A session ends
    with its last frame. The state is back in the sessions' order.
    """
    rng, slots = random.Random(seed), len(lengths)
    state, row, at, done = stage.init_state(slots), list(range(slots)), [0] * slots, [False] * slots
    said: list[list[Any]] = [[] for _ in lengths]
    while not all(done):
        takes = [min(rng.randint(0, 5), n - a) for n, a in zip(lengths, at, strict=True)]
        chunk = x.new_full((slots, 6, *x.shape[2:]), pad)
        for s in range(slots):
            chunk[row[s], : takes[s]] = x[s, at[s] : at[s] + takes[s]]
        at = [a + n for a, n in zip(at, takes, strict=True)]
        done = [a == n for a, n in zip(at, lengths, strict=True)]
        who = [row.index(r) for r in range(slots)]
        y, count = stage.step(chunk, state, torch.tensor([takes[s] for s in who]), torch.tensor([done[s] for s in who]))
        for s in range(slots):
            said[s] += tokens_of(y, count, row[s])
        order = rng.sample(range(slots), slots)  # the session in row r moves to order[r]
        moved = stage.init_state(slots)
        moved.copy_slots_(slots_tensor(*order), state, slots_tensor(*range(slots)))
        state, row = moved, [order[r] for r in row]
    home = stage.init_state(slots)
    home.copy_slots_(slots_tensor(*range(slots)), state, slots_tensor(*row))
    return said, home


def random_sizes(seed: int, largest: int) -> list[int]:
    rng = random.Random(seed)
    return [max(1, int(largest ** rng.random())) if rng.random() < 0.9 else 0 for _ in range(64)] + [largest]


def one_pass(stage: Any, x: Tensor, lookahead: int = 0) -> Any:
    """The stage over everything at once, one slot, fresh state."""
    y, count = stage.step(x[None], stage.init_state(1), torch.tensor([len(x)]), torch.tensor([True]), lookahead)
    return y[0, : int(count[0])]


def streamed(stage: Any, streams: Sequence[Tensor], *, pushes: Sequence[Sequence[int]], lookaheads: Sequence[int],
             seed: int = 0, move_at: int = -1) -> list[Tensor]:
    """Every stream through one engine, in pushes of its own sizes; sessions start late and stall at random. After tick
    `move_at` every open session is snapshotted, closed, and reopened in another slot."""
    rng = random.Random(seed)
    engine: Engine[Any] = Engine(stage, len(streams) + 1)
    pieces = [cut(x, p) for x, p in zip(streams, pushes, strict=True)]
    slots: dict[int, Any] = {}
    out: list[list[Tensor]] = [[] for _ in streams]
    tick = 0
    while any(pieces):
        for i in range(len(streams)):
            if pieces[i] and i not in slots and rng.random() < 0.7:
                slots[i] = engine.open(lookahead=lookaheads[i])
        if tick == move_at:
            slots = _move(engine, slots, rng)
        feeding = [i for i in slots if pieces[i] and rng.random() < 0.8]
        if feeding:
            feeds = {slots[i]: pieces[i].pop(0) for i in feeding}
            results = engine.step(feeds, [slots[i] for i in feeding if not pieces[i]])
            for i in feeding:
                out[i].append(results[slots[i]][0])
                if not pieces[i]:
                    engine.close(slots.pop(i))
        tick += 1
    return [torch.cat(parts) for parts in out]


def _move(engine: Engine[Any], slots: dict[int, Any], rng: random.Random) -> dict[int, Any]:
    """Snapshot to tensors, reload, and take other slots."""
    kept = {i: (engine.snapshot(slot), engine.lookahead(slot)) for i, slot in slots.items()}
    for slot in slots.values():
        engine.close(slot)
    order = list(kept)
    rng.shuffle(order)
    moved = {}
    for i in order:
        snapshot, lookahead = kept[i]
        copy = engine.stage.init_state(1)
        copy.load_({name: leaf.clone() for name, leaf in snapshot.to_dict().items()})
        moved[i] = engine.open(lookahead=lookahead, snapshot=copy)
    return moved


def worst(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value; the shapes must agree."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if a.numel() else 0.0
