"""State: copies by slot, saves as one file, refuses what does not fit."""

from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from torch import Tensor

from vivavoce.streaming.errors import StateMismatch
from vivavoce.streaming.state import State, slots_tensor


@dataclass(frozen=True, eq=False)
class Inner(State):
    count: Tensor


@dataclass(frozen=True, eq=False)
class Outer(State):
    keys: tuple[Tensor, ...]
    inner: Inner


def make(slots: int, width: int = 3) -> Outer:
    return Outer(keys=(torch.randn(slots, width), torch.randn(slots, 2)), inner=Inner(torch.arange(slots)))


def test_leaves_are_named_by_their_path() -> None:
    assert list(make(2).to_dict()) == ["keys.0", "keys.1", "inner.count"]


def test_neighbouring_slots_are_a_state_that_shares_their_memory() -> None:
    a = make(4)
    b = a.narrow(1, 2)
    assert b.slots == 2
    for (name, x), (other, y) in zip(a.leaves(), b.leaves(), strict=True):
        assert name == other
        assert y.data_ptr() == x[1:].data_ptr()


def test_copy_slots_moves_rows_and_keeps_addresses() -> None:
    a, b = make(4), make(2)
    before = [leaf.data_ptr() for _, leaf in a.leaves()]
    untouched = a.keys[0][[0, 2]].clone()
    a.copy_slots_(slots_tensor(3, 1), b, slots_tensor(0, 1))
    assert torch.equal(a.keys[0][[3, 1]], b.keys[0])
    assert torch.equal(a.keys[0][[0, 2]], untouched)
    assert [leaf.data_ptr() for _, leaf in a.leaves()] == before


def test_a_field_cannot_be_rebound() -> None:
    with pytest.raises(FrozenInstanceError):
        make(1).inner = Inner(torch.zeros(1))  # type: ignore[misc]


def test_a_file_brings_back_every_bit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    a, b = make(3), make(3)
    a.save(tmp_path / "s.safetensors")
    b.load_file_(tmp_path / "s.safetensors")
    assert all(torch.equal(x, y) for (_, x), (_, y) in zip(a.leaves(), b.leaves(), strict=True))


def test_other_shapes_and_names_are_refused_before_anything_is_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    a = make(2)
    kept = a.keys[0].clone()
    with pytest.raises(StateMismatch, match=r"keys\.0"):
        a.copy_slots_(slots_tensor(0), make(1, width=4), slots_tensor(0))
    with pytest.raises(StateMismatch, match=r"keys\.1"):
        a.load_({"keys.0": torch.zeros(2, 3)})
    (tmp_path / "bad").write_bytes(b"not a state")
    with pytest.raises(StateMismatch, match="not a saved state"):
        a.load_file_(tmp_path / "bad")
    assert torch.equal(a.keys[0], kept)
