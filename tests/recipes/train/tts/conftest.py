"""A corpus of a few seconds, spoken by tones, with the configuration of a voice so small that it trains in a moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import soundfile
import torch
from babble import save_babbler

from vivavoce.recipes.data import manifest
from vivavoce.speech.tts import mel

TEXTS = ("a cat sat", "well, the dog ran.", "one two", "a dog sat")

SMALL = """
name = "tiny"
corpora = ["one"]
others = ["strangers"]
speakers = ["S"]
speaker = "S"
save_minutes = 0.0
measure_steps = 2

[acoustic]
width = 16
hidden = 24
heads = 2
phone_layers = 1
frame_layers = 1
kernel = 3
condition = 4

[flow]
width = 16
hidden = 24
heads = 2
layers = 1
kernel = 3
left = 10

[vocoder]
width = 16
hidden = 24
layers = 1
kernel = 3

[vocoder_training]
batch = 2
frames = 24
warm = 2
optimizer = {steps = 3, warmup = 1, rate = 1e-3}

[speech_training]
frames = 60
longest = 60
flow_from = 1
others_until = 2
optimizer = {steps = 3, warmup = 1, rate = 1e-3}

[polish_training]
batch = 2
frames = 24
warm = 2
adversary_from = 0
adversary_width = 4
optimizer = {steps = 2, warmup = 1, rate = 1e-3}

[tokens_training]
recogniser = "RECOGNISER"
layers = 1
levels = [4, 3]
seconds = 1.0
optimizer = {steps = 2, warmup = 1, rate = 1e-3}

[writer_training]
width = 16
hidden = 24
layers = 1
heads = 2
items = 50
others_until = 1
optimizer = {steps = 2, warmup = 1, rate = 1e-3}

[planner_training]
width = 16
hidden = 24
layers = 1
frames = 50
others_until = 1
optimizer = {steps = 2, warmup = 1, rate = 1e-3}
"""


def sound(seconds: float, hertz: float) -> torch.Tensor:
    t = torch.arange(int(seconds * mel.RATE)) / mel.RATE
    wave = sum((torch.sin(2 * math.pi * k * hertz * t) / k for k in range(1, 9)), torch.zeros_like(t))
    return 0.1 * wave * (0.3 + (3 * t).sin().square()) + 0.002 * torch.randn(len(t), generator=_generator())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A folder with speech/one: three recordings to train on and one for dev, 0.9 s each; and strangers: two more."""
    record(tmp_path / "data" / "speech" / "one", "S", TEXTS)
    record(tmp_path / "data" / "strangers", "T", TEXTS[:2])
    return tmp_path / "data"


def record(folder: Path, speaker: str, texts: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    utterances = []
    for i, text in enumerate(texts):
        path = folder / f"{i}.wav"
        soundfile.write(path, sound(0.9, 120 + 20 * i).numpy(), mel.RATE)
        utterances.append(manifest.Utterance(path, 0.9, mel.RATE, speaker, "dev" if i == 3 else "train", text))
    manifest.write(folder / manifest.NAME, utterances)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    recogniser = tmp_path / "recogniser"
    save_babbler(recogniser)
    path = tmp_path / "tiny.toml"
    path.write_text(SMALL.replace("RECOGNISER", str(recogniser)))
    return path
