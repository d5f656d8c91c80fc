"""Streaming state: a value the caller owns.

Every stage keeps what it must remember between steps in a `State`, a frozen dataclass of tensors whose dimension 0 is
the slot (one live session). Stages write into the tensors and never rebind a field, so addresses stay; reset, fork,
snapshot and migration are one `copy_slots_`, and saving is one safetensors file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import StateMismatch


@dataclass(frozen=True, eq=False)
class State:
    """A tree of tensors (fields may be a Tensor, a State or a tuple of either); dim 0 of every leaf is the slot."""

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(dotted name, tensor) of every leaf, in a fixed order."""
        for f in fields(self):
            yield from _walk(getattr(self, f.name), f"{prefix}{f.name}")

    @property
    def slots(self) -> int:
        return next(leaf.shape[0] for _, leaf in self.leaves())

    @property
    def nbytes(self) -> int:
        return sum(leaf.nbytes for _, leaf in self.leaves())

    def copy_slots_(self, dst: Tensor, src: Self, src_slots: Tensor) -> None:
        """self[dst] <- src[src_slots]; dst and src_slots are (n,) int64.

        Raises StateMismatch, before anything is written, when the two come from different configurations.
        """
        pairs = list(zip_longest(self.leaves(), src.leaves(), fillvalue=("nothing", torch.zeros(0))))
        for (name, a), (other, b) in pairs:
            if name != other or a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
                raise StateMismatch(
                    f"{name} {tuple(a.shape[1:])} {a.dtype} cannot take {other} {tuple(b.shape[1:])} {b.dtype}: "
                    "the states come from different models; load the one the snapshot was made with"
                )
        self._copy(dst, src, src_slots)

    def _copy(self, dst: Tensor, src: Self, src_slots: Tensor) -> None:
        """Of states that match. A state that knows which of its memory holds anything copies less."""
        for f in fields(self):
            _copy(getattr(self, f.name), getattr(src, f.name), dst, src_slots)

    def take(self, slots: Tensor) -> Self:
        """A new state made of these slots; (n,) int64. Raises IndexError for a slot that does not exist."""
        return type(self)(*(_take(getattr(self, f.name), slots) for f in fields(self)))

    def narrow(self, first: int, n: int) -> Self:
        """n slots from `first` on as a state of their own that shares their memory."""
        return type(self)(*(_each(getattr(self, f.name), lambda x: x.narrow(0, first, n)) for f in fields(self)))

    def to_dict(self) -> dict[str, Tensor]:
        return dict(self.leaves())

    def load_(self, tensors: Mapping[str, Tensor]) -> None:
        """Write every leaf from `tensors`. Raises StateMismatch when names, shapes or dtypes differ."""
        mine = self.to_dict()
        if mine.keys() != tensors.keys():
            raise StateMismatch(f"these leaves differ: {', '.join(sorted(mine.keys() ^ tensors.keys()))}")
        for name, leaf in mine.items():
            if leaf.shape != tensors[name].shape or leaf.dtype != tensors[name].dtype:
                raise StateMismatch(f"{name}: expected {tuple(leaf.shape)} {leaf.dtype}, the file holds "
                                    f"{tuple(tensors[name].shape)} {tensors[name].dtype}")
        for name, leaf in mine.items():
            leaf.copy_(tensors[name])

    def save(self, path: str | Path) -> None:
        """One safetensors file; `load_file_` reads it back."""
        save_file({name: leaf.contiguous() for name, leaf in self.leaves()}, path)

    def load_file_(self, path: str | Path) -> None:
        try:
            self.load_(load_file(path))
        except SafetensorError as e:
            raise StateMismatch(f"{path} is not a saved state ({e})") from e


def _walk(x: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(x, Tensor):
        yield name, x
    elif isinstance(x, State):
        yield from x.leaves(f"{name}.")
    elif isinstance(x, tuple):
        for i, item in enumerate(x):
            yield from _walk(item, f"{name}.{i}")
    else:
        raise TypeError(f"{name}: {type(x).__name__} is not a Tensor, a State or a tuple of them")


def _copy(a: Any, b: Any, dst: Tensor, src_slots: Tensor) -> None:
    """A field's slots."""
    if isinstance(a, Tensor):
        a.index_copy_(0, dst.to(a.device), b.index_select(0, src_slots.to(b.device)).to(a.device))
    elif isinstance(a, State):
        a._copy(dst, b, src_slots)
    else:
        for x, y in zip(a, b, strict=True):
            _copy(x, y, dst, src_slots)


def _take(x: Any, slots: Tensor) -> Any:
    """A field's slots as a new field."""
    if isinstance(x, Tensor):
        return x.index_select(0, slots.to(x.device))
    return x.take(slots) if isinstance(x, State) else tuple(_take(item, slots) for item in x)


def _each(x: Any, of: Callable[[Tensor], Tensor]) -> Any:
    """A field with each of its tensors changed."""
    if isinstance(x, Tensor):
        return of(x)
    if isinstance(x, State):
        return type(x)(*(_each(getattr(x, f.name), of) for f in fields(x)))
    return tuple(_each(item, of) for item in x)


def slots_tensor(*index: int) -> Tensor:
    """Slot numbers as the (n,) int64 tensor that `copy_slots_` takes."""
    return torch.tensor(index, dtype=torch.int64)
