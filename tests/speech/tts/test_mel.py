"""Frames say what a sound is: its pitch, whether it has one, and where its energy lies."""

from __future__ import annotations

import math

import torch

from vivavoce.speech.tts import mel


def tone(hertz: torch.Tensor, harmonics: int = 12) -> torch.Tensor:
    phase = (2 * math.pi * hertz.double() / mel.RATE).cumsum(0)
    return sum((torch.cos(k * phase) / k for k in range(1, harmonics)), torch.zeros_like(phase)).float() * 0.2


def test_the_pitch_of_a_glide_is_that_at_the_end_of_each_frame() -> None:
    hertz = 150 + 50 * torch.sin(torch.arange(mel.RATE) / mel.RATE * 6)
    found, voiced = mel.pitch(tone(hertz))
    ends = (torch.arange(len(found)) + 1) * mel.HOP - 1
    assert bool(voiced.all())
    assert float((found / hertz[ends] - 1).abs()[2:-2].max()) < 0.01


def test_noise_and_silence_have_no_pitch() -> None:
    noise = torch.randn(mel.RATE, generator=torch.Generator().manual_seed(1)) * 0.1
    for pcm in (noise, torch.zeros(mel.RATE)):
        hertz, voiced = mel.pitch(pcm)
        assert float(voiced.float().mean()) < 0.1
        assert bool((hertz > 0).all())


def test_where_there_is_no_pitch_it_is_drawn_straight_through() -> None:
    gap = torch.zeros(mel.RATE // 4)
    pcm = torch.cat((tone(torch.full((12_000,), 120.0)), gap, tone(torch.full((12_000,), 240.0))))
    hertz, voiced = mel.pitch(pcm)
    assert not bool(voiced[29:33].any())
    assert bool((hertz[27:36].diff() > 0).all())


def test_a_sine_peaks_in_the_filter_about_it() -> None:
    sine = torch.sin(torch.arange(4800) * 2 * math.pi * 1000 / mel.RATE)
    centres = mel.filters().argmax(0) * mel.RATE / mel.WINDOW
    peak = int(mel.log_mel(sine)[5].argmax())
    assert abs(float(centres[peak]) - 1000) < 60


def test_every_filter_hears_something() -> None:
    assert float(mel.filters().sum(0).min()) > 0.2


def test_a_frame_every_480_samples() -> None:
    for samples, frames in ((0, 0), (479, 0), (480, 1), (1000, 2)):
        assert mel.frames(torch.zeros(samples)).shape == (frames, mel.WIDTH)
    assert math.isclose(float(mel.frames(torch.zeros(960))[0, 0]), math.log(mel.FLOOR), rel_tol=1e-6)
