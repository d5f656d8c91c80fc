"""Chain: stages end to end equal plain-Python lists end to end, however the stream is cut and whoever is beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import INT, Groups, Labels, Sum, plain, toy_chain, toy_stages

from vivavoce.streaming.chain import Chain, join
from vivavoce.streaming.errors import StateMismatch

Stream = list[int]
streams = st.lists(st.lists(st.integers(-50, 50), max_size=40), min_size=1, max_size=4)
pushes = st.lists(st.integers(0, 15), min_size=1, max_size=8).filter(any)
blocks = st.sampled_from([1, 2, 5, 64])


def run(chain: Chain, batch: list[Stream], sizes: list[int], lookahead: int) -> tuple[list[list[Any]], Any]:
    """Row i gets sizes[i], sizes[i + 1], ... items at a time until it ends; what came out of each, and the state."""
    rows: list[list[Any]] = [[] for _ in batch]
    state = chain.init_state(len(batch))
    at, ended, tick = [0] * len(batch), [False] * len(batch), 0
    while not all(ended):
        parts = [row[a : a + sizes[(i + tick) % len(sizes)]] for i, (row, a) in enumerate(zip(batch, at, strict=True))]
        at = [a + len(part) for a, part in zip(at, parts, strict=True)]
        final = [not done and a == len(row) for done, a, row in zip(ended, at, batch, strict=True)]
        ended = [a or b for a, b in zip(ended, final, strict=True)]
        x = torch.full((len(batch), max(map(len, parts))), 999)  # padding that would show
        for i, part in enumerate(parts):
            x[i, : len(part)] = torch.tensor(part, dtype=torch.int64)
        y, count = chain.step(x, state, torch.tensor([len(p) for p in parts]), torch.tensor(final), lookahead)
        for i, n in enumerate(count.tolist()):
            rows[i] += zip(*(f[i, :n].tolist() for f in y), strict=True) if isinstance(y, Labels) else y[i, :n].tolist()
        tick += 1
        for stage, queue in zip(chain.stages, state.queues, strict=True):
            assert not queue or (queue.count < stage.spec.chunk_items(lookahead)).all(), "a whole chunk still waits"
    return rows, state


@given(streams, pushes, st.integers(0, 9), blocks)
def test_any_chunking_in_any_company_equals_plain_lists(batch: list[Stream], sizes: list[int], lookahead: int,
                                                        block: int) -> None:
    rows, state = run(toy_chain(block=block), batch, sizes, lookahead)
    assert rows == [plain(row, lookahead) for row in batch]
    for stage in state.stages:
        assert stage.ended.tolist() == [1] * len(batch)


@given(streams, pushes, st.integers(0, 9), blocks)
def test_tuple_outputs_stay_together(batch: list[Stream], sizes: list[int], lookahead: int, block: int) -> None:
    rows, _ = run(toy_chain(block=block, labels=True), batch, sizes, lookahead)
    assert rows == [plain(row, lookahead, labels=True) for row in batch]


@given(st.lists(st.integers(-9, 9), max_size=300), st.integers(0, 9))
def test_one_pass_over_more_than_a_block_equals_plain_lists(stream: Stream, lookahead: int) -> None:
    assert run(toy_chain(block=8), [stream], [300], lookahead)[0] == [plain(stream, lookahead)]


def test_a_chain_inside_a_chain_is_a_stage() -> None:
    first, second = toy_stages()[:2], toy_stages()[2:]
    inner = Chain(first, item_shapes=[(), ()], like=INT, max_lookahead=9, block=4)
    outer = Chain([inner, *second], item_shapes=[()] * 3, like=INT, max_lookahead=9, block=4)
    assert run(outer, [list(range(30)), [4]], [7, 2], 2)[0] == [plain(range(30), 2), plain([4], 2)]


def test_the_chain_has_the_rates_of_its_ends() -> None:
    spec = Chain([Groups(2, 1), Sum(), Groups(3, 0)], item_shapes=[()] * 3, like=INT).spec
    assert (spec.in_hz, spec.out_hz, spec.chunk) == (2, 1, 0)


def test_nothing_is_computed_before_a_chunk_is_whole() -> None:
    chain, state = toy_chain(), toy_chain().init_state(1)
    one, goes_on = torch.tensor([1]), torch.tensor([False])
    counts = [int(chain.step(one[None], state, one, goes_on)[1]) for _ in range(11)]
    # a pair is full at inputs 1, 3, 5, ... (one item of the head), and three pairs make an output
    assert [i + 1 for i, n in enumerate(counts) if n] == [5, 11]


@pytest.mark.parametrize(("block", "largest"), [(1, 8), (8, 8), (21, 16), (64, 64)])
def test_a_step_takes_whole_chunks_up_to_a_block(block: int, largest: int) -> None:
    sizes = []

    class Watched(Groups):
        def step(self, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            sizes.append(x.shape[1])
            return super().step(x, *rest)

    chain = Chain([Watched(2, 1)], item_shapes=[()], like=INT, max_lookahead=9, block=block)
    run(chain, [list(range(1000)), list(range(7))], [130], 3)
    assert max(sizes) == largest


def test_queues_do_not_grow() -> None:
    chain = toy_chain(block=16)
    state = chain.init_state(1)
    size = state.nbytes
    for _ in range(50):
        chain.step(torch.ones(1, 100, dtype=torch.int64), state, torch.tensor([100]), torch.tensor([False]), 9)
    assert state.nbytes == size
    assert all(int(q.count) < 30 for q in state.queues if q)


def test_a_state_of_another_chain_is_refused() -> None:
    state = toy_chain(labels=True).init_state(1)
    with pytest.raises(StateMismatch, match="5 stages was given to a chain of 4"):
        toy_chain().step(torch.ones(1, 1, dtype=torch.int64), state, torch.tensor([1]), torch.tensor([False]))


def test_every_stage_needs_an_item_shape() -> None:
    with pytest.raises(ValueError, match="2 stages need as many item shapes, not 1"):
        Chain([Sum(), Sum()], item_shapes=[()], like=INT)


def test_join_keeps_each_row_in_order() -> None:
    a = (torch.tensor([[1, 2], [7, 0]]), torch.tensor([2, 1]))
    b = (torch.tensor([[0, 0, 0], [8, 9, 5]]), torch.tensor([0, 2]))
    y, count = join([a, b])
    assert (y.tolist(), count.tolist()) == ([[1, 2, 0], [7, 8, 9]], [2, 3])
