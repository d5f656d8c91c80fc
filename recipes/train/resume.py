"""What a training run goes on from: one file, whole or not there, and an error that names it where it does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vivavoce.speech.errors import BadCheckpoint


def keep(state: object, path: Path) -> None:
    """Atomic, so that a cut never leaves half a file."""
    part = path.with_name(path.name + ".part")
    torch.save(state, part)
    part.replace(path)


def resume(path: Path, device: torch.device, load: Callable[[dict[str, Any]], None]) -> None:
    """Hand what `keep` wrote to `load`; nothing where there is no such file yet. Raises BadCheckpoint."""
    if not path.is_file():
        return
    try:
        load(torch.load(path, map_location=device, weights_only=True))
    except (RuntimeError, LookupError, ValueError, EOFError, pickle.UnpicklingError) as e:
        raise BadCheckpoint(
            f"{path}: damaged, or of another configuration; remove it to begin anew, or give another --out"
        ) from e
