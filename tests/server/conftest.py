"""What the server's tests share: the babbling recogniser in memory, and the page in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from babble import save_babbler
from browser import Browser, Tab, browser
from page import begun
from scripted import Scripted, scripted

from vivavoce.server import site
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


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of nothing, then a chirp through the band of speech, as a WAV file."""
    t = np.arange(48000 * 3) / 48000
    sound = 0.4 * np.sin(2 * np.pi * (200 * t + 300 * t**2)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    path = tmp_path_factory.mktemp("voice") / "chirp.wav"
    soundfile.write(path, np.concatenate([np.zeros(48000), sound, np.zeros(48000 * 2)]), 48000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory, voice: Path) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile"), voice) as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted(site.routes()) as serving:
        yield serving


@pytest.fixture
def tab(chrome: Browser, server: Scripted) -> Iterator[Tab]:
    server.play(begun)
    with chrome.open(server.url) as tab:
        yield tab
    server.check()
    assert tab.errors == []


@pytest.fixture(scope="module")
def idle(chrome: Browser, server: Scripted) -> Iterator[Tab]:
    """One tab for the tests that start nothing."""
    with chrome.open(server.url) as tab:
        yield tab
    assert tab.errors == []
