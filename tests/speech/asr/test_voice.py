"""The gate: a frame's voice is what was heard by then, however the stream is cut; without it labels pay."""

from fractions import Fraction

import pytest
import torch
from streams import one_pass, random_sizes, streamed, worst
from torch import Tensor

from vivavoce.speech.asr.ctc import CtcHead
from vivavoce.speech.asr.transducer import GatedTransducer, Transducer
from vivavoce.speech.asr.voice import Gate, GatedCtc, Heard
from vivavoce.speech.features import LogMel
from vivavoce.speech.nn.encoder import Encoder, EncoderConfig
from vivavoce.speech.vad import WINDOW, Vad
from vivavoce.streaming.chain import Chain

WIDTH = 16


def heard(gate: Gate | None = None) -> Heard:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(width=WIDTH, layers=1, heads=2, hidden=16, channels=4, dropout=0.0)).eval()
    front = Chain([LogMel(80), encoder], item_shapes=[(), (80,)], like=torch.zeros(()))
    return Heard(front, Vad.load(), gate)


def sound(samples: int, seed: int) -> Tensor:
    """Noise whose loudness changes, so that voice activity is never the same for long."""
    g = torch.Generator().manual_seed(seed)
    loud = (10 ** (-2 * torch.rand(samples // 3000 + 1, generator=g))).repeat_interleave(3000)[:samples]
    return torch.randn(samples, generator=g) * loud * 0.3


@pytest.mark.parametrize("lookahead", [0, 6, 69])
def test_any_cut_any_company_and_a_move_give_what_one_pass_gives(lookahead: int) -> None:
    stage = heard()
    streams = [sound(n, n) for n in (40_000, 201, 15_555)]
    pushes = [random_sizes(1, 30_000), [1, 5, 77], [512]]
    got = streamed(stage, streams, pushes=pushes, lookaheads=[lookahead] * 3, move_at=4)
    for y, x in zip(got, streams, strict=True):
        assert worst(y, one_pass(stage, x, lookahead)) < 1e-4


def test_the_penalty_is_that_of_the_windows_heard_when_the_frame_could_be_computed() -> None:
    stage, x = heard(Gate(windows=3, best=2)), sound(40_000, 5)
    y = one_pass(stage, x)
    speech = one_pass(stage.vad, x)
    for frame in (0, 4, 17, len(y) - 1):
        end = min((1280 * frame + 200) // WINDOW, len(speech))
        around = torch.cat([torch.zeros(3), speech[:end]])[-3:]
        expected = 2 * (around.topk(2).values.mean().clamp(min=1e-6) / 0.9).log().clamp(max=0)
        assert y[frame, -1] == pytest.approx(float(expected), abs=1e-3)
    assert stage.spec.out_hz == Fraction(25, 2)


def test_full_voice_costs_nothing_and_none_a_lot() -> None:
    gate = Gate()
    assert gate.penalty(torch.full((16,), 0.95)) == 0
    assert gate.penalty(torch.zeros(16)) < -20
    bark = torch.zeros(16)
    bark[3:5] = 1.0
    assert gate.penalty(bark) < -1


def test_labels_pay_and_blank_does_not() -> None:
    head, x = CtcHead(WIDTH, 5), torch.randn(2, 7, WIDTH)
    penalty = -torch.rand(2, 7, 1)
    gated = GatedCtc(head, head.blank)(torch.cat([x, penalty], dim=-1))
    assert torch.allclose(gated[..., -1], head(x)[..., -1])
    assert torch.allclose(gated[..., :-1], head(x)[..., :-1] + penalty)


@pytest.mark.parametrize("durations", [(), (0, 1, 2)])
def test_a_transducer_behind_a_shut_gate_says_only_blanks(durations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inner = Transducer(WIDTH, 5, hidden=8, layers=1, durations=durations).eval()
    gated, x, prediction = GatedTransducer(inner), torch.randn(1, 9, WIDTH), torch.randn(1, 1, 8)
    free = inner.best(inner.encoder_projector(x), prediction)
    for penalty, expected in ((0.0, free[0]), (-99.0, torch.full((1, 9), 5))):
        frames = gated.encoder_projector(torch.cat([x, torch.full((1, 9, 1), penalty)], dim=-1))
        assert torch.equal(gated.best(frames, prediction)[0], expected)
    assert (free[0] != 5).any()
