"""Engine: sessions that come, stall, move and go each get exactly what they get alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from toys import Even, Sum, plain, toy_chain

from vivavoce.streaming.chain import ChainState
from vivavoce.streaming.engine import Engine, Slot
from vivavoce.streaming.errors import BadLookahead, Full, StateMismatch, UnknownSlot
from vivavoce.streaming.state import State


def items(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


class Recorded(Sum):
    """Running sums that keep the lookahead and size of each batch they see, and fail on 13."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def step(self, x: Tensor, state: Any, valid: Tensor, final: Tensor, lookahead: int = 0) -> tuple[Tensor, Tensor]:
        self.batches.append((lookahead, x.shape[0]))
        y = super().step(x, state, valid, final, lookahead)
        if (x == 13).any():
            raise RuntimeError("thirteen")
        return y


def test_a_session_gives_what_it_gives_alone() -> None:
    engine = Engine(toy_chain(), 3)
    slot = engine.open(lookahead=2)
    first, n = engine.step({slot: items(*range(20))})[slot]
    rest, m = engine.step({slot: items(*range(20, 33))}, [slot])[slot]
    assert (len(first), len(rest)) == (n, m)
    assert first.tolist() + rest.tolist() == plain(range(33), 2)


def test_sessions_of_one_lookahead_share_a_step() -> None:
    stage = Recorded()
    engine = Engine(stage, 5)
    slots = [engine.open(lookahead=r) for r in (0, 6, 0, 6, 1)]
    engine.step({slot: items(1) for slot in slots})
    assert sorted(stage.batches) == [(0, 2), (1, 1), (6, 2)]


def test_lookahead_can_be_changed_and_is_checked() -> None:
    stage = Recorded()
    engine = Engine(stage, 1, max_lookahead=13)
    slot = engine.open()
    engine.set_lookahead(slot, 13)
    engine.step({slot: items(1)})
    assert (engine.lookahead(slot), stage.batches) == (13, [(13, 1)])
    for wrong in (-1, 14):
        with pytest.raises(BadLookahead, match="outside 0 to 13"):
            engine.set_lookahead(slot, wrong)
        with pytest.raises(BadLookahead, match="outside 0 to 13"):
            engine.open(lookahead=wrong)


def test_a_full_engine_says_so_and_has_room_again_after_a_close() -> None:
    engine = Engine(Sum(), 2)
    a, _ = engine.open(), engine.open()
    assert engine.free == 0
    with pytest.raises(Full, match="all 2 places are taken; close a session"):
        engine.open()
    engine.close(a)
    assert engine.free == 1
    assert engine.open().index == a.index


def test_a_stale_slot_never_reaches_the_next_session() -> None:
    engine = Engine(Sum(), 1)
    old = engine.open()
    engine.step({old: items(5)})
    engine.close(old)
    new = engine.open()
    assert new.index == old.index
    uses: list[Callable[[], Any]] = [
        lambda: engine.step({old: items(100)}), lambda: engine.step({new: items(100)}, [old]),
        lambda: engine.snapshot(old), lambda: engine.set_lookahead(old, 1), lambda: engine.lookahead(old),
        lambda: engine.close(old), lambda: engine.step({new: items(100), old: items(100)}),
    ]
    for use in uses:
        with pytest.raises(UnknownSlot):
            use()
    y, _ = engine.step({new: items(1)})[new]
    assert y.tolist() == [1]


@pytest.mark.parametrize("slot", [Slot(0, 0), Slot(1, 1), Slot(-1, 1), Slot(7, 1)])
def test_a_slot_nobody_opened_is_unknown(slot: Slot) -> None:
    engine = Engine(Sum(), 2)
    engine.open()
    with pytest.raises(UnknownSlot, match="is not open"):
        engine.step({slot: items(1)})


def test_an_ended_session_takes_no_more_until_closed() -> None:
    engine = Engine(Sum(), 1)
    slot = engine.open()
    engine.step({slot: items(1)}, [slot])
    for final in ([], [slot]):
        with pytest.raises(UnknownSlot, match="has ended; close it"):
            engine.step({slot: items(1)}, final)
    engine.close(slot)
    again = engine.open()
    assert engine.step({again: items(4)}, [again])[again][0].tolist() == [4, -4]


def test_ending_needs_a_feed_and_an_empty_one_will_do() -> None:
    engine = Engine(Sum(), 1)
    slot = engine.open()
    with pytest.raises(UnknownSlot, match="give it an empty tensor"):
        engine.step({}, [slot])
    assert engine.step({slot: items()}, [slot])[slot][0].tolist() == [0]


def test_an_ended_session_has_no_snapshot_and_can_still_be_closed() -> None:
    engine = Engine(Sum(), 1)
    slot = engine.open()
    engine.step({slot: items(1)}, [slot])
    with pytest.raises(UnknownSlot, match="has ended; close it"):
        engine.snapshot(slot)
    engine.close(slot)
    assert engine.free == 1


def test_neighbours_are_stepped_in_place_in_whatever_order_they_are_fed() -> None:
    class Watched(Sum):
        states: ClassVar[list[State]] = []

        def step(self, x: Tensor, state: Any, valid: Tensor, final: Tensor,
                 lookahead: int = 0) -> tuple[Tensor, Tensor]:
            self.states.append(state)
            return super().step(x, state, valid, final, lookahead)

    stage = Watched()
    engine = Engine(stage, 3)
    a, b, c = (engine.open() for _ in range(3))
    out = engine.step({c: items(3), a: items(1, 10), b: items(2)}, [b])
    assert {slot: y.tolist() for slot, (y, _) in out.items()} == {a: [1, 11], b: [2, -2], c: [3]}
    engine.step({c: items(4), a: items(1)})
    there = [leaf.data_ptr() for _, leaf in engine.state.leaves()]
    assert [leaf.data_ptr() for _, leaf in stage.states[0].leaves()] == there
    assert [leaf.data_ptr() for _, leaf in stage.states[1].leaves()] != there  # b lies between them


def test_a_step_without_anybody_does_nothing() -> None:
    stage = Recorded()
    assert Engine(stage, 2).step({}) == {}
    assert stage.batches == []


def test_tuple_outputs_are_cut_row_by_row() -> None:
    engine = Engine(Even(), 2)
    a, b = engine.open(), engine.open()
    out = engine.step({a: items(2, 3, 4), b: items(1)}, [b])
    assert [column.tolist() for column in out[a][0]] == [[2, 4], [0, 2]]
    assert [column.tolist() for column in out[b][0]] == [[-1], [1]]


def test_a_snapshot_goes_through_a_file_to_another_engine(tmp_path: Path) -> None:
    stream = list(range(40))
    here, there = Engine(toy_chain(), 2), Engine(toy_chain(), 3)
    slot = here.open(lookahead=3)
    y, _ = here.step({slot: items(*stream[:17])})[slot]
    here.snapshot(slot).save(tmp_path / "session.safetensors")
    here.step({slot: items(99)})  # the snapshot is a copy: this does not reach it
    loaded = toy_chain().init_state(1)
    loaded.load_file_(tmp_path / "session.safetensors")
    there.open()
    moved = there.open(lookahead=3, snapshot=loaded)
    z, _ = there.step({moved: items(*stream[17:])}, [moved])[moved]
    assert y.tolist() + z.tolist() == plain(stream, 3)


def test_one_snapshot_opens_many_sessions() -> None:
    engine = Engine(Sum(), 3)
    slot = engine.open()
    engine.step({slot: items(10)})
    snapshot = engine.snapshot(slot)
    forks = [engine.open(snapshot=snapshot) for _ in range(2)]
    out = engine.step({forks[0]: items(1), forks[1]: items(2), slot: items(3)})
    assert [out[s][0].tolist() for s in (*forks, slot)] == [[11], [12], [13]]


def test_a_snapshot_of_another_model_is_refused_and_takes_no_place() -> None:
    engine: Engine[ChainState] = Engine(toy_chain(), 1)
    with pytest.raises(StateMismatch):
        engine.open(snapshot=toy_chain(block=8).init_state(1))
    with pytest.raises(StateMismatch):
        engine.open(snapshot=toy_chain(labels=True).init_state(1))
    assert engine.free == 1
    slot = engine.open()
    assert engine.step({slot: items(1, 2, 3)}, [slot])[slot][0].tolist() == plain([1, 2, 3], 0)


def test_a_snapshot_with_fewer_or_other_leaves_of_the_same_shape_is_refused_too() -> None:
    @dataclass(frozen=True, eq=False)
    class Shorter(State):
        memory: Tensor

    @dataclass(frozen=True, eq=False)
    class Renamed(State):
        memory: Tensor
        closed: Tensor

    engine: Engine[Any] = Engine(Sum(), 1)
    zero = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(StateMismatch, match=r"ended .* cannot take nothing"):
        engine.open(snapshot=Shorter(zero))
    with pytest.raises(StateMismatch, match=r"ended .* cannot take closed"):
        engine.open(snapshot=Renamed(zero, zero))


def test_a_step_that_fails_leaves_the_other_sessions_as_they_were() -> None:
    engine = Engine(Recorded(), 3)
    a, b = engine.open(), engine.open()
    engine.step({a: items(1), b: items(2)})
    with pytest.raises(RuntimeError, match="thirteen"):
        engine.step({a: items(13)})
    assert engine.step({a: items(1), b: items(1)})[b][0].tolist() == [3]


def test_a_failed_step_in_a_full_engine_spares_the_other_lookaheads() -> None:
    engine = Engine(Recorded(), 2)
    a, b = engine.open(lookahead=1), engine.open()
    engine.step({a: items(1), b: items(2)})
    with pytest.raises(RuntimeError, match="thirteen"):
        engine.step({a: items(13)})
    engine.close(a)
    fresh = engine.open(lookahead=1)
    out = engine.step({fresh: items(1), b: items(5)}, [b])
    assert [out[fresh][0].tolist(), out[b][0].tolist()] == [[1], [7, -7]]


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2)])
def test_feeds_of_another_kind_stop_before_anybody_is_stepped(wrong: Tensor) -> None:
    engine = Engine(Sum(), 3)
    good, bad = engine.open(lookahead=0), engine.open(lookahead=1)
    with pytest.raises(ValueError, match="feeds of one step differ"):
        engine.step({good: items(5), bad: wrong})
    assert engine.step({good: items(1)})[good][0].tolist() == [1]


def test_a_hundred_sessions_in_eight_places_equal_themselves_alone() -> None:
    rng = random.Random(0)
    engine = Engine(toy_chain(labels=True), 8)
    streams = [[rng.randint(-50, 50) for _ in range(rng.choice([0, 1, 30, 80]))] for _ in range(100)]
    lookaheads = [rng.randint(0, 9) for _ in streams]
    out: list[list[tuple[int, ...]]] = [[] for _ in streams]
    waiting, running, at = list(range(100)), dict[int, Slot](), [0] * 100
    parked = dict[int, ChainState]()
    while waiting or running:
        while waiting and engine.free and rng.random() < 0.8:
            i = waiting.pop(0)
            running[i] = engine.open(lookahead=lookaheads[i], snapshot=parked.pop(i, None))
        feeding = [i for i in running if rng.random() < 0.8]
        pieces = {i: streams[i][at[i] : at[i] + rng.randint(0, 25)] for i in feeding}
        ends = {i for i, piece in pieces.items() if at[i] + len(piece) == len(streams[i])}
        results = engine.step({running[i]: items(*p) for i, p in pieces.items()}, [running[i] for i in ends])
        for i, piece in pieces.items():
            columns, n = results[running[i]]
            out[i] += zip(*(column.tolist() for column in columns), strict=True)
            assert len(columns.value) == n
            at[i] += len(piece)
        for i in list(running):
            if i in ends:
                engine.close(running.pop(i))
            elif rng.random() < 0.05:  # gives its place to another and comes back later
                parked[i] = engine.snapshot(running[i])
                engine.close(running.pop(i))
                waiting.append(i)
    assert out == [plain(s, r, labels=True) for s, r in zip(streams, lookaheads, strict=True)]
