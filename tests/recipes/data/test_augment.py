"""Augmentation: each change does what it says, and the same (seed, index, epoch) hears the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vivavoce.recipes.data import augment
from vivavoce.recipes.data.augment import (
    RATE,
    Augment,
    AugmentConfig,
    SpecAugment,
    equalizers,
    mel_centres,
    warp_frequencies,
)
from vivavoce.speech.features import LogMel

QUIET = AugmentConfig(speed=0, pitch=0, room=0, noise=0, babble=0, telephone=0, codec=0, clipping=0, gain=(0.0, 0.0))


def _tone(hertz: float, seconds: float = 1.0, level: float = 0.5) -> augment.Audio:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def _peak_hertz(audio: augment.Audio) -> float:
    return float(np.abs(np.fft.rfft(audio)).argmax() * RATE / len(audio))


def _noise(seconds: float = 1.0) -> augment.Audio:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def _decibels(a: augment.Audio, b: augment.Audio) -> float:
    return float(10 * np.log10(np.mean(a**2) / np.mean(b**2)))


def test_faster_is_shorter_and_higher() -> None:
    fast = augment.change_speed(_tone(1000), 1.1)
    assert len(fast) == pytest.approx(RATE / 1.1, abs=2)
    assert _peak_hertz(fast) == pytest.approx(1100, abs=2)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_stretched_is_longer_at_the_same_pitch_and_loudness_without_seams(factor: float) -> None:
    tone = _tone(150) + _tone(450, level=0.2)
    made = augment.stretch(tone, factor)
    assert len(made) == round(RATE * factor)
    assert _peak_hertz(made) == pytest.approx(150, abs=2)
    middle = slice(1000, len(made) - 1000)
    assert _decibels(made[middle], tone[1000:-1000]) == pytest.approx(0, abs=0.5)
    assert np.abs(np.diff(made[middle])).max() < 1.2 * np.abs(np.diff(tone)).max()


def test_stretching_by_one_changes_nothing() -> None:
    noise = _noise(0.5)
    np.testing.assert_allclose(augment.stretch(noise, 1.0)[600:-600], noise[600:-600], atol=1e-5)


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_another_pitch_is_as_long_as_before(factor: float) -> None:
    made = augment.change_pitch(_tone(400), factor)
    assert len(made) == RATE
    assert _peak_hertz(made) == pytest.approx(400 * factor, abs=3)
    for short in (1, 10, 300, 700):
        assert len(augment.change_pitch(_noise()[:short], factor)) == short


def test_noise_lies_as_far_below_speech_as_asked() -> None:
    for snr in (0.0, 12.0, 30.0):
        noise = augment.mix(_tone(500), _noise(), snr) - _tone(500)
        assert _decibels(_tone(500), noise) == pytest.approx(snr, abs=0.1)
    np.testing.assert_array_equal(augment.mix(_tone(500), np.zeros(RATE, np.float32), 0.0), _tone(500))


def test_a_room_is_a_convolution_at_the_same_length_and_loudness() -> None:
    response = np.zeros(800, np.float32)
    response[[0, 500]] = 1.0, 0.5
    dry = _noise()
    wet = augment.reverberate(dry, response)
    expected = dry.copy()
    expected[500:] += 0.5 * dry[:-500]
    np.testing.assert_allclose(wet, expected * np.sqrt(np.mean(dry**2) / np.mean(expected**2)), atol=1e-5)


@pytest.mark.parametrize("through", [augment.telephone, augment.gsm])
def test_narrow_bands_keep_one_kilohertz_and_drop_six(through) -> None:  # type: ignore[no-untyped-def]
    middle, high = _tone(1000), _tone(6000)
    assert len(through(middle)) == RATE
    assert abs(_decibels(through(middle), middle)) < 2.5
    assert _decibels(through(high) + 1e-6, high) < -25


def test_the_telephone_has_no_bass() -> None:
    assert _decibels(augment.telephone(_tone(100)) + 1e-6, _tone(100)) < -25


def test_clipping_flattens_the_share_asked() -> None:
    clipped = augment.clip(_noise(), 0.05)
    assert np.mean(np.abs(clipped) >= np.abs(clipped).max() - 1e-7) == pytest.approx(0.05, abs=0.002)


def test_the_same_seed_index_and_epoch_hear_the_same_and_others_do_not() -> None:
    stored = (_noise() * 32767).astype(np.int16)
    rooms = [np.array([1.0, 0, 0.5], np.float32)]
    every = AugmentConfig(speed=1, room=1, noise=1, babble=1, telephone=1, codec=1, clipping=1)
    change = Augment(every, 3, [stored], [stored], rooms)
    first = change(_tone(300), 7, 0)
    np.testing.assert_array_equal(first, Augment(every, 3, [stored], [stored], rooms)(_tone(300), 7, 0))
    others = [change(_tone(300), 8, 0), change(_tone(300), 7, 1), Augment(every, 4, [stored])(_tone(300), 7, 0)]
    assert all(len(o) != len(first) or not np.array_equal(o, first) for o in others)
    assert np.isfinite(first).all()
    assert np.abs(first).max() <= 1


@pytest.mark.parametrize("what", ["speed", "room", "noise", "babble", "telephone", "codec", "clipping"])
def test_each_probability_switches_its_own_change(what: str) -> None:
    stored = (_noise() * 32767).astype(np.int16)
    pools = ([stored], [stored], [np.array([1.0, 0, 0.5], np.float32)])
    audio = _noise(0.5)
    plain = Augment(QUIET, 0, *pools)(audio, 0, 0)
    changed = Augment(replace(QUIET, **{what: 1.0}), 0, *pools)(audio, 0, 0)
    np.testing.assert_allclose(plain, audio / np.abs(audio).max(), atol=1e-6)
    assert len(changed) != len(plain) or np.abs(changed - plain).max() > 1e-4


def test_silence_and_nothing_pass() -> None:
    every = AugmentConfig(speed=1, noise=1, telephone=1, codec=1, clipping=1)
    change = Augment(every, 0, [(_noise() * 32767).astype(np.int16)])
    assert np.isfinite(change(np.zeros(1600, np.float32), 0, 0)).all()
    assert len(change(np.zeros(0, np.float32), 0, 0)) == 0


def test_masks_cover_no_more_than_allowed_and_only_within_the_utterance() -> None:
    mel = torch.randn(8, 200, 80, generator=torch.Generator().manual_seed(0))
    frames = torch.tensor([200, 150, 100, 50, 20, 10, 1, 0])
    mask = SpecAugment(frequency_masks=0, time_masks=5, time_share=0.1, warp=0)
    out = mask(mel, frames, seed=1)
    changed = (out != mel).all(2)
    assert (changed.sum(1) <= 0.5 * frames).all()
    assert changed.any()
    assert not any(bool(changed[i, n:].any()) for i, n in enumerate(frames))
    bands = (SpecAugment(2, 20, 0, 0, 0)(mel, frames, seed=1) != mel)[0].all(0)
    assert 0 < int(bands.sum()) <= 40


def test_a_mask_is_the_utterance_s_mean_and_the_seed_decides_it() -> None:
    mel = torch.randn(2, 100, 80, generator=torch.Generator().manual_seed(0))
    frames = torch.tensor([100, 60])
    mask = SpecAugment(warp=0)
    out = mask(mel, frames, seed=4)
    where = out[1, :60] != mel[1, :60]
    torch.testing.assert_close(out[1, :60][where], mel[1, :60].mean().expand(int(where.sum())))
    torch.testing.assert_close(out, mask(mel, frames, seed=4), rtol=0, atol=0)
    assert not torch.equal(out, mask(mel, frames, seed=5))


def test_mel_centres_are_where_the_features_filters_peak() -> None:
    filters = LogMel(80).filters
    hertz = torch.linspace(0, RATE / 2, filters.shape[0])
    centre = (filters * hertz[:, None]).sum(0) / filters.sum(0)
    assert float((centre - mel_centres(80)).abs().max()) < 40  # bins are 31 Hz apart


def test_an_equalizer_is_one_curve_a_row_within_its_decibels() -> None:
    curves = equalizers(50, 80, 6.0, torch.Generator().manual_seed(0))
    decibels = curves * 10 / np.log(10)
    torch.testing.assert_close(curves.mean(1), torch.zeros(50))
    assert (decibels.amax(1) - decibels.amin(1)).max() <= 12  # two levels within 6 dB of 0
    assert decibels.abs().mean() > 1
    bends = (curves.diff(dim=1).diff(dim=1).abs() > 1e-4).sum(1)
    assert bends.max() <= 8  # four joints between straight lines, each seen by two mels at most
    assert (curves[0] - curves[1]).abs().max() > 0.1
    mel = torch.zeros(2, 30, 80)
    changed = SpecAugment(0, 0, 0, 0, warp=0, equalizer=6.0)(mel, torch.tensor([30, 30]), seed=3)
    assert (changed == changed[:, :1]).all()  # the same at every frame
    assert (changed[0, 0] != changed[1, 0]).any()


def test_a_warp_moves_a_peak_by_its_factor_and_one_changes_nothing() -> None:
    centres = mel_centres(80)
    mel = torch.exp(-(((torch.arange(80) - 40) / 3.0) ** 2)).expand(3, 5, 80)
    warped = warp_frequencies(mel, torch.tensor([1.0, 1.1, 0.9]))
    torch.testing.assert_close(warped[0], mel[0])
    for row, factor in ((1, 1.1), (2, 0.9)):
        assert float(centres[warped[row, 0].argmax()] / centres[40]) == pytest.approx(factor, abs=0.04)
    rising = torch.arange(80.0).expand(2, 1, 80)
    assert (warp_frequencies(rising, torch.tensor([1.1, 0.9])).diff(dim=2) >= 0).all()
