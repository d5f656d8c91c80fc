"""Resample: as good as soxr, aligned in time, and the same for any split, batch mate, snapshot and slot."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import one_pass, random_sizes, streamed, worst

from vivavoce.speech.errors import BadConfig
from vivavoce.speech.resample import Resample

RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
PAIRS = list(itertools.permutations(RATES, 2))
SOME = [(48000, 16000), (8000, 16000), (44100, 16000), (22050, 48000), (16000, 24000)]


def band_limited(rate: int, seconds: float, top: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(round(rate * seconds)) / rate
    hz, phase = np.linspace(40, top, 30)[:, None], rng.uniform(0, 6, (30, 1))
    return np.sin(2 * np.pi * hz * t + phase).mean(axis=0)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_agrees_with_soxr_to_70_db_on_a_band_limited_signal(a: int, b: int) -> None:
    x = band_limited(a, 0.5, 0.85 * min(a, b) / 2)
    want = soxr.resample(x, a, b, "VHQ")
    got = one_pass(Resample(a, b), torch.from_numpy(x).float()).numpy()
    assert len(got) == math.ceil(len(x) * b / a)
    middle = slice(b // 50, len(want) - b // 50)  # at the two ends the filters ring differently
    error, power = np.square(got[: len(want)] - want)[middle].mean(), np.square(want)[middle].mean()
    assert 10 * np.log10(power / error) > 70


@pytest.mark.parametrize(("a", "b"), [(48000, 16000), (44100, 16000), (24000, 8000)])
def test_what_lies_above_the_new_nyquist_frequency_is_gone(a: int, b: int) -> None:
    t = torch.arange(a // 2, dtype=torch.float64) / a
    for hz in (0.55 * b, 0.75 * b, 0.45 * a):
        y = one_pass(Resample(a, b, torch.float64), torch.sin(2 * math.pi * hz * t))
        assert y[b // 50 : -b // 50].abs().max() < 1e-3


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_an_event_keeps_its_time(a: int, b: int) -> None:
    t = torch.arange(a // 5, dtype=torch.float64) / a - 0.1
    y = one_pass(Resample(a, b, torch.float64), torch.exp(-((t / 0.002) ** 2)))
    s = torch.arange(len(y), dtype=torch.float64) / b - 0.1
    assert (y - torch.exp(-((s / 0.002) ** 2))).abs().max() < 1e-4


@pytest.mark.parametrize(("a", "b"), SOME)
def test_a_constant_stays_itself(a: int, b: int) -> None:
    y = one_pass(Resample(a, b, torch.float64), torch.ones(a // 10, dtype=torch.float64))
    assert (y[b // 50 : -b // 50] - 1).abs().max() < 1e-12


@pytest.mark.parametrize(("a", "b"), SOME)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_any_split_start_stall_and_slot_equals_one_pass(a: int, b: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    stage = Resample(a, b, dtype)
    lengths = (a // 10 + 7, a // 4, 1, a // 7 + 1, 50)
    streams = [torch.randn(n, dtype=dtype) for n in lengths]
    pushes = [[a // 50], random_sizes(1, 3000), [1], random_sizes(2, a // 40), random_sizes(3, 40)]
    got = streamed(stage, streams, pushes=pushes, lookaheads=[0] * 5, move_at=5)
    for x, y in zip(streams, got, strict=True):
        assert len(y) == math.ceil(len(x) * b / a)
        assert worst(y, one_pass(stage, x)) <= tolerance


@pytest.mark.parametrize(("a", "b"), [(48000, 16000), (16000, 22050)])
def test_one_sample_at_a_time_equals_one_pass(a: int, b: int) -> None:
    torch.manual_seed(1)
    stage, x = Resample(a, b, torch.float64), torch.randn(900, dtype=torch.float64)
    state, parts = stage.init_state(1), []
    for i, sample in enumerate(x):
        y, count = stage.step(sample.view(1, 1), state, torch.tensor([1]), torch.tensor([i == len(x) - 1]))
        parts.append(y[0, : count[0]])
    assert (torch.cat(parts) - one_pass(stage, x)).abs().max() < 1e-10


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PAIRS), st.lists(st.integers(0, 600), min_size=1, max_size=8))
def test_outputs_come_as_soon_as_their_inputs_are_there(pair: tuple[int, int], pushes: list[int]) -> None:
    stage = Resample(*pair)
    state, total = stage.init_state(1), 0
    for n in pushes:
        stage.step(torch.randn(1, n), state, torch.tensor([n]), torch.tensor([False]))
        total += n
        ready = max(0, math.ceil((total - stage.lookahead_samples) * stage.outs / stage.ins))
        assert state.made.item() == ready


def test_a_row_without_input_keeps_every_bit_of_its_state() -> None:
    stage = Resample(44100, 16000)
    state = stage.init_state(2)
    stage.step(torch.randn(2, 1000), state, torch.tensor([1000, 777]), torch.tensor([False, False]))
    before = {name: leaf.clone() for name, leaf in state.leaves()}
    x = torch.randn(2, 500)
    x[1] = float("nan")  # beyond `valid` anything may lie
    _, count = stage.step(x, state, torch.tensor([500, 0]), torch.tensor([False, False]))
    assert count[1] == 0
    assert all(torch.equal(leaf[1], before[name][1]) for name, leaf in state.leaves())


def test_an_ended_stream_of_nothing_gives_nothing() -> None:
    stage = Resample(48000, 16000)
    _, count = stage.step(torch.zeros(1, 0), stage.init_state(1), torch.tensor([0]), torch.tensor([True]))
    assert count.tolist() == [0]


def test_the_state_is_small_and_does_not_grow() -> None:
    assert all(Resample(a, b).init_state(1).nbytes < 8192 for a, b in PAIRS)


@pytest.mark.parametrize(("a", "b"), [(16000, 16000), (0, 16000), (44101, 16000)])
def test_rates_it_cannot_convert_are_named(a: int, b: int) -> None:
    with pytest.raises(BadConfig, match=f"{a} Hz to {b} Hz"):
        Resample(a, b)
