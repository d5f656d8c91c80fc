"""Spectral distances: nothing between a sound and itself, phase not heard, loudness and pitch heard; gradients flow."""

from __future__ import annotations

import math

import torch

from vivavoce.recipes.train.tts.spectral import distance, magnitudes, mel_distance


def tone(hertz: float, phase: float = 0.0) -> torch.Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(12_000) / 24_000 + phase)[None]


def test_distances_hear_pitch_and_loudness_but_no_phase() -> None:
    for measure in (distance, mel_distance):
        same = float(measure(tone(200), tone(200)))
        assert same < 1e-6
        shifted = float(measure(tone(200), tone(200, 1.0)))
        assert shifted < 0.5 * float(measure(tone(200), tone(300)))
        assert shifted < 0.5 * float(measure(tone(200), 4 * tone(200)))


def test_magnitudes_have_a_frame_every_quarter_window() -> None:
    assert magnitudes(torch.zeros(2, 4096), 1024).shape == (2, 513, 13)


def test_silence_has_a_gradient() -> None:
    made = torch.zeros(1, 6000, requires_grad=True)
    distance(made, tone(200)[:, :6000]).backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert bool(made.grad.isfinite().all())
