"""Ragged memories, held against plain Python lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vivavoce.streaming.buffers import Fifo, count_mask, shift_in_, take_items

SLOTS, WIDTH = 3, 5
counts = st.lists(st.integers(0, WIDTH), min_size=SLOTS, max_size=SLOTS)


class Numbers:
    """Ragged batches of numbers that never repeat; padding is -1."""

    def __init__(self) -> None:
        self.next = 1

    def rows(self, valid: list[int]) -> tuple[Tensor, list[list[int]]]:
        x = torch.full((len(valid), WIDTH), -1, dtype=torch.int64)
        rows = []
        for i, n in enumerate(valid):
            rows.append(list(range(self.next, self.next + n)))
            x[i, :n] = torch.tensor(rows[-1], dtype=torch.int64)
            self.next += n
        return x, rows


@given(kept=st.integers(0, 7), pushes=st.lists(counts, max_size=6))
def test_shift_in_keeps_the_last_items_of_each_row(kept: int, pushes: list[list[int]]) -> None:
    numbers = Numbers()
    memory = torch.zeros(SLOTS, kept, dtype=torch.int64)
    expected = [[0] * kept for _ in range(SLOTS)]
    address = memory.data_ptr()
    for valid in pushes:
        x, rows = numbers.rows(valid)
        joined = shift_in_(memory, x, torch.tensor(valid))
        for i, row in enumerate(rows):
            assert joined[i].tolist() == expected[i] + x[i].tolist()
            expected[i] = (expected[i] + row)[len(row) :]
        assert memory.tolist() == expected
    assert memory.data_ptr() == address


def test_shift_in_moves_items_of_any_shape() -> None:
    memory, x = torch.zeros(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    shift_in_(memory, x, torch.tensor([1]))
    assert torch.equal(memory, torch.stack((torch.zeros(1, 3, 4), x[:, 0]), dim=1))


@given(st.data())
def test_a_fifo_is_a_list_a_row(data: st.DataObject) -> None:
    head = data.draw(st.integers(0, 2))
    numbers = Numbers()
    fifo = Fifo.empty(SLOTS, 12, (), torch.zeros((), dtype=torch.int64), head=head)
    expected = [[0] * head for _ in range(SLOTS)]
    for _ in range(data.draw(st.integers(0, 8))):
        valid = [min(n, 12 - len(row)) for n, row in zip(data.draw(counts), expected, strict=True)]
        x, rows = numbers.rows(valid)
        fifo.push_(x, torch.tensor(valid))
        expected = [old + new for old, new in zip(expected, rows, strict=True)]
        assert fifo.count.tolist() == [len(row) for row in expected]
        n = data.draw(st.integers(0, 12))
        taken = [min(data.draw(st.integers(0, n)), len(row)) for row in expected]
        out = fifo.pop_(n, torch.tensor(taken))
        assert out.tolist() == [row[:k] + [0] * (n - k) for row, k in zip(expected, taken, strict=True)]
        expected = [row[k:] for row, k in zip(expected, taken, strict=True)]
        assert fifo.count.tolist() == [len(row) for row in expected]
    rest = fifo.pop_(12, fifo.count.clone())
    assert [row[:n] for row, n in zip(rest.tolist(), map(len, expected), strict=True)] == expected


def test_slots_of_a_fifo_are_copied_with_all_that_waits_in_them() -> None:
    fifo, other = (Fifo.empty(3, 6, (), torch.zeros((), dtype=torch.int64)) for _ in range(2))
    fifo.push_(torch.arange(15).view(3, 5), torch.tensor([2, 5, 0]))
    other.push_(torch.arange(100, 112).view(3, 4), torch.tensor([4, 4, 4]))
    taken = fifo.take(torch.tensor([1, 0]))
    other.copy_slots_(torch.tensor([2, 0]), taken, torch.tensor([0, 1]))
    assert other.pop_(6, other.count.clone()).tolist() == [
        [0, 1, 0, 0, 0, 0],
        [104, 105, 106, 107, 0, 0],
        [5, 6, 7, 8, 9, 0],
    ]
    assert fifo.count.tolist() == [2, 5, 0]


def test_a_fifo_that_would_overflow_refuses_and_keeps_what_it_has() -> None:
    fifo = Fifo.empty(2, 4, (2,), torch.zeros(()))
    fifo.push_(torch.ones(2, 3, 2), torch.tensor([3, 1]))
    before = [leaf.clone() for _, leaf in fifo.leaves()]
    with pytest.raises(ValueError, match="5 items do not fit a queue of 4"):
        fifo.push_(torch.ones(2, 2, 2), torch.tensor([2, 0]))
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, fifo.leaves(), strict=True))


def test_padding_never_enters_a_fifo() -> None:
    fifo = Fifo.empty(1, 4, (), torch.zeros(()))
    fifo.push_(torch.tensor([[1.0, float("nan"), float("nan")]]), torch.tensor([1]))
    fifo.push_(torch.tensor([[2.0, float("nan")]]), torch.tensor([1]))
    assert fifo.pop_(4, torch.tensor([2])).tolist() == [[1.0, 2.0, 0.0, 0.0]]


def test_fifo_storage_stays_where_it_is() -> None:
    fifo = Fifo.empty(2, 4, (), torch.zeros(()))
    before = [leaf.data_ptr() for _, leaf in fifo.leaves()]
    fifo.push_(torch.ones(2, 3), torch.tensor([3, 2]))
    fifo.pop_(2, torch.tensor([2, 1]))
    assert [leaf.data_ptr() for _, leaf in fifo.leaves()] == before


def test_take_items_and_count_mask_go_row_by_row() -> None:
    x = torch.arange(6).reshape(2, 3)
    assert take_items(x, torch.tensor([[2, 0], [1, 1]])).tolist() == [[2, 0], [4, 4]]
    assert count_mask(torch.tensor([0, 2, 3]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]
