"""A voice: saved and loaded it speaks the same; what it streams is what it says at once; wrong folders say why."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from small_voice import SMALL, make_voice
from streams import one_pass, random_sizes, streamed, worst

from vivavoce.speech.errors import BadCheckpoint, BadConfig
from vivavoce.speech.tts.flow import FlowState
from vivavoce.speech.tts.phones import SYMBOLS, encode
from vivavoce.speech.tts.voice import CONFIG, Voice, fresh, voices
from vivavoce.streaming.engine import Engine

HELLO = encode(["HH", "AH0", "L", "OW1", " ", "W", "ER1", "L", "D", "."] * 3)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_streamed_sound_is_offline_sound(dtype: torch.dtype, error: float) -> None:
    voice = make_voice(dtype)
    stage = voice.stage(steps=2)
    plans = [voice.plan(HELLO[:n]).frames for n in (5, 12, 30)]
    made = streamed(stage, plans, pushes=[random_sizes(i, 9) for i in range(3)], lookaheads=[0, 3, 1], move_at=4)
    for plan, pcm, lookahead in zip(plans, made, (0, 3, 1), strict=True):
        assert len(pcm) == len(plan) * Voice.frame_samples
        assert float((pcm - one_pass(stage, plan, lookahead)).abs().max()) < error  # of full scale


def test_a_plan_has_as_many_frames_as_its_durations_say_and_fewer_when_faster() -> None:
    voice = make_voice()
    plan, fast = voice.plan(HELLO), voice.plan(HELLO, rate=2.0)
    assert plan.frames.shape == (sum(plan.durations), voice.width)
    assert len(plan.durations) == len(HELLO)
    assert len(fast.frames) < 0.7 * len(plan.frames)


@pytest.mark.parametrize(("phones", "rate"), [([], 1.0), ([len(SYMBOLS)], 1.0), ([-1], 1.0), ([3], 0.0)])
def test_plans_of_nothing_known_are_refused(phones: list[int], rate: float) -> None:
    with pytest.raises(ValueError, match="a plan needs phones"):
        make_voice().plan(phones, rate=rate)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("int8", 0.2)])
def test_a_saved_voice_speaks_the_same(tmp_path: Path, dtype: str, error: float) -> None:
    voice = make_voice()
    voice.save(tmp_path, dtype=dtype)  # type: ignore[arg-type]
    loaded = Voice.load(tmp_path)
    assert loaded.config == SMALL
    frames = voice.plan(HELLO).frames
    made = loaded.acoustic.draw(loaded.acoustic.read(*read_args(HELLO)), torch.full((1, len(HELLO)), 2))
    same = voice.acoustic.draw(voice.acoustic.read(*read_args(HELLO)), torch.full((1, len(HELLO)), 2))
    assert worst(made, same) <= error
    assert loaded.plan(HELLO).frames.shape[1] == frames.shape[1]


def read_args(phones: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.tensor([phones]), torch.tensor([len(phones)]), torch.tensor([1])


def test_a_session_has_its_own_seed_and_step_number() -> None:
    voice = make_voice()
    stage = voice.stage(steps=3)
    frames = voice.plan(HELLO).frames
    engine = Engine(stage, 3, max_lookahead=4)
    settings = ((1, 0), (1, 1), (2, 0))
    slots = [engine.open(snapshot=fresh(stage, seed=seed, steps=steps)) for seed, steps in settings]
    made = engine.step(dict.fromkeys(slots, frames), slots)
    for i, (seed, steps) in enumerate(settings):
        alone = stage.step(frames[None], fresh(stage, seed=seed, steps=steps), torch.tensor([len(frames)]),
                           torch.tensor([True]))[0][0]
        assert float((made[slots[i]][0] - alone[: made[slots[i]][1]]).abs().max()) < 1e-4
    assert worst(made[slots[0]][0], made[slots[2]][0]) > 1e-3
    flow = fresh(stage, seed=5, steps=2).stages[1]
    assert isinstance(flow, FlowState)
    assert (int(flow.seed), int(flow.steps)) == (5, 2)


def test_folders_that_are_no_voice_say_so(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no such voice; give one that ships"):
        Voice.load("nobody")
    make_voice().save(tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(values | {"model_type": "other"}))
    with pytest.raises(BadCheckpoint, match="not a voice"):
        Voice.load(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(values | {"extra": 1}))
    with pytest.raises(BadConfig, match="unknown key 'extra'"):
        Voice.load(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(values | {"symbols": 1000}))
    with pytest.raises(BadCheckpoint, match="reads 1000 symbols"):
        Voice.load(tmp_path)


def test_the_shipped_voice_fits_its_budget_and_streams_exactly() -> None:
    assert "lj-en" in voices()
    folder = Path(str(resources.files("vivavoce.speech.models"))) / "lj-en"
    assert (folder / "model.safetensors").stat().st_size < 13e6
    assert "CC BY-SA 4.0" in (folder / "README.md").read_text()
    voice = Voice.load("lj-en")
    frames = voice.plan(HELLO).frames
    assert 50 < len(frames) < 250
    stage = voice.stage(steps=2)
    made = streamed(stage, [frames], pushes=[[7, 20]], lookaheads=[1])[0]
    whole = one_pass(stage, frames, 1)
    assert float((made - whole).abs().max()) < 1e-4  # of full scale
    assert 0.05 < float(whole.abs().max()) < 1
