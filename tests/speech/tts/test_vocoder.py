"""The vocoder: streaming equals offline, no sample is lost, and the pitch it is given is the pitch that is heard."""

from __future__ import annotations

import math

import pytest
import torch
from streams import one_pass, random_sizes, streamed, worst

from vivavoce.speech.tts import mel
from vivavoce.speech.tts.config import VocoderConfig
from vivavoce.speech.tts.vocoder import OVERLAP, SHIFT, TAIL, Vocoder

SMALL = VocoderConfig(width=16, hidden=24, layers=2, kernel=3)


def vocoder(dtype: torch.dtype = torch.float32) -> Vocoder:
    torch.manual_seed(0)
    model = Vocoder(SMALL).eval()
    torch.nn.init.normal_(model.gains.weight, std=0.2)
    return model.to(dtype)


def frames(count: int, seed: int = 0, hertz: float = 150.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, mel.WIDTH, generator=generator) * 0.5 - 2
    x[:, mel.PITCH] = math.log(hertz / mel.MIDDLE) + 0.1 * torch.randn(count, generator=generator)
    x[:, mel.VOICED] = 1
    return x


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_any_chunking_in_any_company_equals_one_pass(dtype: torch.dtype, error: float) -> None:
    model = vocoder(dtype)
    streams = [frames(n, n).to(dtype) for n in (1, 2, 9, 23)]
    made = streamed(model, streams, pushes=[random_sizes(i, 5) for i in range(4)], lookaheads=[0] * 4, move_at=4)
    for x, y in zip(streams, made, strict=True):
        assert len(y) == mel.HOP * len(x)
        assert worst(y, one_pass(model, x)) < error


def test_the_end_may_come_alone() -> None:
    model = vocoder()
    x = frames(6)
    made = streamed(model, [torch.cat((x, x[:0]))], pushes=[[6, 0]], lookaheads=[0])[0]
    state = model.init_state(1)
    first, count = model.step(x[None], state, torch.tensor([6]), torch.tensor([False]))
    rest, more = model.step(x[None, :0], state, torch.tensor([0]), torch.tensor([True]))
    parts = torch.cat((first[0, : int(count)], rest[0, : int(more)]))
    assert int(count) == 6 * mel.HOP - TAIL
    assert int(more) == TAIL
    assert torch.equal(parts, made)


def test_the_pitch_asked_for_is_heard() -> None:
    model = Vocoder(SMALL).eval()
    x = torch.full((40, mel.WIDTH), -1.0)
    x[:, mel.PITCH], x[:, mel.VOICED] = math.log(180.0 / mel.MIDDLE), 1
    hertz, voiced = mel.pitch(one_pass(model, x))
    assert bool(voiced[3:-3].all())
    assert float((hertz[3:-3] / 180 - 1).abs().max()) < 0.01


def test_untrained_it_already_follows_the_spectrum() -> None:
    model = Vocoder(SMALL).eval()
    x = frames(30) * 0
    x[:, : mel.MELS] = -6
    x[:, 20:30] = 0
    x[:, mel.PITCH] = math.log(150.0 / mel.MIDDLE)
    made = mel.log_mel(one_pass(model, x))[5:-5].mean(0)
    assert float(made[22:28].mean() - made[50:].mean()) > 3


def test_noise_differs_between_seeds_and_not_between_runs() -> None:
    model = vocoder()
    made = []
    for seed in (1, 1, 2):
        state = model.init_state(1)
        state.seed.fill_(seed)
        made.append(model.step(frames(5)[None], state, torch.tensor([5]), torch.tensor([True]))[0])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_training_reaches_every_weight() -> None:
    model = vocoder()
    model.train()(frames(8)[None]).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_phase_begins_anew_where_nothing_is_voiced() -> None:
    """So a wrong pitch long ago leaves no trace in a later syllable."""
    model = vocoder(torch.float64)
    x = frames(40).double()
    x[15:18, mel.VOICED] = 0
    other = x.clone()
    other[:10, mel.PITCH] += 0.01
    a, b = one_pass(model, x), one_pass(model, other)
    assert worst(a[25 * mel.HOP :], b[25 * mel.HOP :]) < 1e-9
    assert worst(a[: 10 * mel.HOP], b[: 10 * mel.HOP]) > 1e-3


def test_windows_add_up_to_one() -> None:
    window = torch.hann_window(TAIL + SHIFT, dtype=torch.float64).square().view(-1, SHIFT).sum(0)
    assert torch.allclose(window, torch.full_like(window, OVERLAP))
