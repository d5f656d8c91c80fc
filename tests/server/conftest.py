"""What the server's tests share: the babbling recogniser in memory, and a voice that hums its text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from babble import save_babbler

from vivavoce.speech import checkpoint
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.checkpoint import Loaded


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_babbler(folder)
    return checkpoint.load(folder)


@pytest.fixture(scope="session")
def recognizer(loaded: Loaded) -> Callable[[int], Recognizer]:
    """Makes one of so many slots."""

    def make(slots: int) -> Recognizer:
        return Recognizer(loaded.model, loaded.tokenizer, slots=slots)

    return make


@pytest.fixture(scope="session")
def model_path(loaded: Loaded) -> Path:
    return loaded.source
