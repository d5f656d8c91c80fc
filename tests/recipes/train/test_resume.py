"""A run's checkpoint is whole or not there, and one that does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vivavoce.recipes.train.resume import keep, resume
from vivavoce.speech.errors import BadCheckpoint

CPU = torch.device("cpu")


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    path, seen = tmp_path / "last.pt", list[dict[str, Any]]()
    resume(path, CPU, seen.append)
    assert not seen
    keep({"step": 3, "weight": torch.arange(4.0)}, path)
    keep({"step": 4, "weight": torch.arange(4.0)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
    resume(path, CPU, seen.append)
    assert seen[0]["step"] == 4
    assert torch.equal(seen[0]["weight"], torch.arange(4.0))


def test_a_cut_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    keep({"step": 3}, path)
    before = path.read_bytes()

    def cut(_state: object, part: Path) -> None:
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        keep({"step": 4}, path)
    assert path.read_bytes() == before


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    keep(nn.Linear(2, 3).state_dict(), path)
    with pytest.raises(BadCheckpoint, match=r"last\.pt: damaged, or of another configuration"):
        resume(path, CPU, lambda state: nn.Linear(2, 2).load_state_dict(state))  # type: ignore[func-returns-value]
    with pytest.raises(BadCheckpoint, match="damaged"):
        resume(path, CPU, lambda state: state["step"])
    for text in (b"", path.read_bytes()[:100], b"not a checkpoint"):
        path.write_bytes(text)
        with pytest.raises(BadCheckpoint, match="give another --out"):
            resume(path, CPU, lambda state: None)
