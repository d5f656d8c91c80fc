"""What reading another program's checkpoint takes: renaming its weights by a table, and refusing settings that we lack.

hub.py and nemo.py hold a table and a configuration reader each; what they return goes through checkpoint.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vivavoce.streaming.errors import VivaVoceError

from .errors import BadCheckpoint

Table = Mapping[str, str]

_LAYER = re.compile(r"(?<=encoder\.layers\.)\d+")
_POINTWISE = ("conv.expand.weight", "conv.out.weight", "ctc.linear.weight")  # convolutions of width 1 there


def rename(tensors: Mapping[str, Tensor], table: Table, ignored: tuple[str, ...], where: str) -> dict[str, Tensor]:
    """Weights under our names, in float32.

    table: their name of a module or a weight -> ours, `{}` standing for the layer's number; ignored: beginnings of
    names that hold nothing to load. Raises BadCheckpoint for a name that neither knows.
    """
    ours: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.startswith(ignored):
            continue
        target = _translate(name, table)
        if target is None:
            raise BadCheckpoint(
                f"{where}: the weight {name} has no place in a FastConformer; this is another kind of model"
            )
        value = value.float() if value.is_floating_point() else value
        ours[target] = value.squeeze(-1) if target.endswith(_POINTWISE) else value
    return _fuse_attention(ours)


def _translate(name: str, table: Table) -> str | None:
    """The table's entry for the longest beginning of `name` that it has, and the rest of the name after it."""
    number = _LAYER.search(name)
    parts = _LAYER.sub("{}", name).split(".")
    for n in range(len(parts), 0, -1):
        target = table.get(".".join(parts[:n]))
        if target is not None:
            return ".".join([target, *parts[n:]]).replace("{}", number[0] if number else "{}")
    return None


def _fuse_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`attention.q`, `.k` and `.v` become one `attention.qkv`; where one is lacking, all stay and will be reported."""
    for name in [n for n in tensors if ".attention.q." in n]:
        three = [name.replace(".attention.q.", f".attention.{x}.") for x in "qkv"]
        if all(n in tensors for n in three):
            tensors[name.replace(".attention.q.", ".attention.qkv.")] = torch.cat([tensors.pop(n) for n in three])
    return tensors


def require(values: Mapping[str, Any], where: str, **allowed: Any) -> None:
    """Refuse settings that would change the result. allowed: key -> the value it must have (None too when it is
    absent), or a tuple of such values. Raises BadCheckpoint naming the key."""
    for key, value in allowed.items():
        options = value if isinstance(value, tuple) else (value,)
        given = values.get(key, options[0])
        if given not in options:
            wanted = " or ".join(str(o) for o in options)
            raise BadCheckpoint(f"{where}: {key} is {given}, which is not supported; only {wanted} is")


@contextmanager
def damage_named(where: str) -> Iterator[None]:
    """Whatever a setting of an odd type or size breaks inside becomes a BadCheckpoint."""
    try:
        yield
    except VivaVoceError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as e:
        raise BadCheckpoint(f"{where}: a setting is damaged ({type(e).__name__}: {e}); fetch it again") from e


def section(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """A part of a configuration. Raises BadCheckpoint when it is not there."""
    part = values.get(key)
    if not isinstance(part, Mapping):
        raise BadCheckpoint(f"{where}: the section {key!r} is missing; this is not a recogniser's configuration")
    return part
