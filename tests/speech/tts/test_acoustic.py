"""Phones become frames: durations add up, company changes nothing, rate shortens."""

from __future__ import annotations

import math

import pytest
import torch

from vivavoce.speech.tts import mel
from vivavoce.speech.tts.acoustic import PLACES, Acoustic, expand, settle
from vivavoce.speech.tts.config import AcousticConfig
from vivavoce.speech.tts.phones import SYMBOLS, encode

CONFIG = AcousticConfig(width=16, hidden=24, heads=2, phone_layers=2, frame_layers=2, kernel=3, condition=4)
HELLO = encode(["HH", "AH0", "L", "OW1", " ", "W", "ER1", "L", "D", "."])


@pytest.fixture
def model() -> Acoustic:
    torch.manual_seed(0)
    return Acoustic(CONFIG, len(SYMBOLS), 2).eval()


def test_a_phrase_draws_what_it_draws_alone(model: Acoustic) -> None:
    phones = torch.nn.utils.rnn.pad_sequence([torch.tensor(HELLO), torch.tensor(HELLO[:4])], batch_first=True)
    durations = torch.tensor([[3, 2, 1, 4, 0, 2, 2, 1, 3, 5], [2, 1, 1, 3] + [0] * 6])
    both = model(phones, torch.tensor([10, 4]), torch.tensor([0, 1]), durations)
    alone = model(phones[1:, :4], torch.tensor([4]), torch.tensor([1]), durations[1:, :4])
    assert both.frames.shape == (2, 23, mel.WIDTH + 4) == (2, 23, model.width)
    assert torch.allclose(both.frames[1, :7], alone.frames[0], atol=1e-5)
    assert torch.allclose(both.log_durations[1, :4], alone.log_durations[0], atol=1e-5)


def test_speakers_sound_different(model: Acoustic) -> None:
    drawn = [model.plan(torch.tensor(HELLO), s, 1.0)[0][:3] for s in (0, 1)]
    assert not torch.allclose(drawn[0], drawn[1])


def test_a_plan_has_the_frames_of_its_durations(model: Acoustic) -> None:
    frames, durations = model.plan(torch.tensor(HELLO), 0, 1.0)
    assert len(frames) == int(durations.sum()) > 0
    assert len(durations) == len(HELLO)


def test_every_frame_knows_its_phone_and_its_place() -> None:
    owner, places = expand(torch.tensor([[2, 0, 3]]), 5)
    assert owner.tolist() == [[0, 0, 2, 2, 2]]
    assert places.shape == (1, 5, PLACES)
    assert places[0, :, 2].tolist() == pytest.approx([-0.5, 0.5, -2 / 3, 0.0, 2 / 3])


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_rounding_keeps_the_length_of_a_phrase(rate: float) -> None:
    lengths = torch.tensor([4.4, 3.3, 5.7, 6.1, 4.4, 8.3] * 5)
    phones = torch.tensor(encode(["AA1"] * 30))
    settled = settle(lengths.log1p(), phones, rate)
    assert abs(int(settled.sum()) - float(lengths.sum()) / rate) <= 1


def test_phones_last_a_frame_and_separators_may_vanish() -> None:
    phones = torch.tensor(encode(["T", " ", ",", "AA1"]))
    settled = settle(torch.tensor([0.0, 0.1, 0.1, 0.0]), phones, 1.0)
    assert settled.tolist() == [1, 0, 0, 1]


def test_normalised_frames_have_no_mean(model: Acoustic) -> None:
    model.mean.fill_(3.0)
    model.deviation.fill_(2.0)
    assert torch.equal(model.normalise(torch.full((1, mel.WIDTH), 5.0)), torch.ones(1, mel.WIDTH))


def test_training_reaches_every_weight(model: Acoustic) -> None:
    phones = torch.tensor([HELLO])
    drawn = model(phones, torch.tensor([10]), torch.tensor([0]), torch.full((1, 10), 2))
    (drawn.frames.square().mean() + drawn.log_durations.square().mean()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert math.isfinite(sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None))
