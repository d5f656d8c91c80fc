"""The vocoder's training: the same batch at the same step, made frames keep the recording's pitch, critics resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vivavoce.recipes.train.tts.data import Recording, gather
from vivavoce.recipes.train.tts.schedule import Learner, OptimizerConfig
from vivavoce.recipes.train.tts.sound import SoundConfig, SoundPart
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.config import VocoderConfig
from vivavoce.speech.tts.vocoder import Vocoder

CPU = torch.device("cpu")
CONFIG = SoundConfig(batch=2, frames=20, warm=2, adversary_from=1, adversary_width=4, made=1.0,
                     optimizer=OptimizerConfig(steps=4, warmup=1))


@pytest.fixture
def recordings(data_folder: Path, tmp_path: Path) -> list[Recording]:
    return gather(data_folder / "speech", ["one"], tmp_path / "cache")


def make_part(recordings: list[Recording], made: dict[str, torch.Tensor] | None = None) -> SoundPart:
    torch.manual_seed(0)
    model = Vocoder(VocoderConfig(width=16, hidden=24, layers=1, kernel=3))
    return SoundPart(model, recordings, CONFIG, CPU, seed=1, made=made)


def test_a_step_has_its_batch(recordings: list[Recording]) -> None:
    part = make_part(recordings)
    frames, pcm = part.batch(3)
    assert frames.shape == (2, 20, mel.WIDTH)
    assert pcm.shape == (2, 20 * mel.HOP)
    assert torch.equal(part.batch(3)[1], pcm)
    assert not torch.equal(part.batch(4)[1], pcm)


def test_dev_recordings_are_never_trained_on(recordings: list[Recording]) -> None:
    part = make_part(recordings)
    assert {r.split for r in part.train} == {"train"}
    assert len(part.dev) == 1
    figures = part.measure(part.model)
    assert set(figures) == {"mel", "spectrum"}
    assert 0 < figures["mel"] < 5


def test_critics_join_and_resume(recordings: list[Recording]) -> None:
    learner = Learner(make_part(recordings), CONFIG.optimizer, CPU)
    assert "persuade" not in learner.step()
    assert "persuade" in learner.step()
    resumed = Learner(make_part(recordings), CONFIG.optimizer, CPU)
    resumed.load(learner.state())
    a, b = learner.step(), resumed.step()
    assert a == pytest.approx(b, rel=1e-4)


def test_made_frames_take_the_pitch_of_the_sound(recordings: list[Recording]) -> None:
    made = {r.path: torch.zeros(30, mel.WIDTH, dtype=torch.float16) for r in recordings}
    frames, _ = make_part(recordings, made).batch(0)
    real, _ = make_part(recordings).batch(0)
    assert bool((frames[..., : mel.MELS] == 0).any())
    assert not bool((real[..., : mel.MELS] == 0).any())
    assert bool((frames[..., mel.PITCH] != 0).any())
