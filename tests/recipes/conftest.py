"""What the tests of the commands share: the babbling model on disk and in memory, and a writer of audio files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from babble import save_babbler

from vivavoce.speech import checkpoint
from vivavoce.speech.checkpoint import Loaded


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_babbler(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(model_dir: Path) -> Loaded:
    return checkpoint.load(model_dir)


@pytest.fixture
def quick(model_dir: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's folder, from which the commands of this process get the model without reading it again."""

    def load(source: str | Path, device: str) -> Loaded:
        return loaded if source == str(model_dir) else checkpoint.load(source, device=device)

    monkeypatch.setattr("vivavoce.recipes.options.load", load)
    return model_dir


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(name, samples, rate=16000, subtype=None) -> the path of that file below tmp_path."""

    def write(name: str, samples: npt.NDArray[np.float32], rate: int = 16000, subtype: str | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype=subtype)
        return path

    return write
