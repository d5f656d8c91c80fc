"""Packed linears: close to the float32 ones, row by row alone, and an encoder of them still streams as in one pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from streams import one_pass, random_sizes, streamed, worst
from torch import Tensor, nn

from vivavoce.speech.errors import MissingDevice
from vivavoce.speech.features import LogMel
from vivavoce.speech.nn import packed as module
from vivavoce.speech.nn.encoder import Encoder, EncoderConfig
from vivavoce.speech.nn.packed import (
    FEW,
    KINDS,
    MANY,
    Int8Linear,
    PackedLinear,
    Precision,
    exact_levels,
    prepare,
    supported,
)
from vivavoce.streaming.buffers import count_mask
from vivavoce.streaming.chain import Chain
from vivavoce.streaming.replay import Replays

CONFIG = EncoderConfig(mels=80, width=32, layers=2, heads=4, hidden=48, channels=8)
SUPPORTED = supported()
LEVELS = [levels for levels in (FEW, MANY) if levels <= exact_levels()]
CLOSE = {"fp32": 1e-6, "fp16": 1e-3, "int8": 1e-2 * MANY / (exact_levels() or FEW)}  # relative to the largest output
STREAMING = 1e-5


def make_encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(CONFIG)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.2)
    return encoder.eval()


def make_chain(precision: Precision) -> Chain:
    return Chain([LogMel(), prepare(make_encoder(), precision)], item_shapes=[(), (80,)], like=torch.zeros(()))


def streaming_bound(precision: Precision, expected: Tensor, pcm: Tensor, lookahead: int) -> float:
    """How far streaming may be from one pass: by rounding of single precision, or, where activations are rounded to 8
    bits, by as much as that setting itself is from single precision."""
    if precision != "int8":
        return STREAMING
    return worst(expected, one_pass(make_chain("fp32"), pcm, lookahead))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("precision", SUPPORTED)
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_is_the_linear(precision: Precision, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias=bias)
    packed = KINDS[precision](linear)
    for shape in ((1, 96), (7, 96), (3, 5, 96)):
        x = noise(*shape)
        with torch.no_grad():
            assert worst(packed(x), linear(x)) <= CLOSE[precision]


@pytest.mark.parametrize("precision", SUPPORTED)
def test_a_row_does_not_depend_on_its_company(precision: Precision) -> None:
    torch.manual_seed(0)
    packed = KINDS[precision](nn.Linear(512, 256))
    rows = noise(33, 512)
    alone = torch.cat([packed(row[None]) for row in rows])
    bound = 0.0 if precision == "int8" else 1e-6  # integers add up to the same in any order
    for loud in (0.0, 1.0, 1e4):
        company = rows.clone()
        company[::2] *= loud
        assert worst(packed(company)[1::2], alone[1::2]) <= bound
    assert worst(packed(rows.flip(0)).flip(0), alone) <= bound


@pytest.mark.parametrize("levels", LEVELS)
def test_int8_takes_silence_and_any_loudness(levels: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 16)
    packed = Int8Linear(linear, levels)
    close = 1.3 / levels
    with torch.no_grad():
        assert torch.equal(packed(torch.zeros(1, 64))[0], linear.bias)
        for scale in (1e-20, 1e-6, 1e6, 1e20):
            x = noise(4, 64) * scale
            assert worst(packed(x) - linear.bias, linear(x) - linear.bias) <= max(close, 1e-6 / scale)
        peak = torch.full((1, 64), -3.0)  # every activation at the edge of its range
        assert worst(packed(peak), linear(peak)) <= close


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("width", [64, 512, 2048])
def test_int8_sums_are_exact(levels: int, width: int) -> None:
    """With weights and activations that their bits hold exactly, up to sums and pairs that overflow 16 bits."""
    linear = nn.Linear(width, 64, bias=False)
    g = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (64, width), generator=g).double()
    x = torch.randint(-levels, levels + 1, (9, width), generator=g).double()
    sign = 1.0 - 2.0 * (torch.arange(width) % 2)
    weight[0], weight[1], weight[2] = 127, -127, 127 * sign
    x[0], x[1], x[2] = levels, -levels, levels * sign
    weight[:, 0], x[:, 0] = 127, levels
    linear.weight.data = (weight / 127).float()
    with torch.no_grad():
        y = Int8Linear(linear, levels)((x / levels).float()).double()
    assert worst(y, x @ weight.t() / 127 / levels) <= 1e-6


@pytest.mark.parametrize("precision", SUPPORTED)
def test_a_prepared_encoder_gives_what_it_gave(precision: Precision) -> None:
    encoder, mel = make_encoder(), noise(1, 8 * 150, 80)
    valid, final = torch.tensor([mel.shape[1]]), torch.tensor([True])
    before, _ = encoder.step(mel, encoder.init_state(1), valid, final, 6)
    packed = prepare(encoder, precision)
    assert packed is encoder
    assert not any(type(m) is nn.Linear for m in packed.modules())
    after, _ = packed.step(mel, packed.init_state(1), valid, final, 6)
    assert worst(after, before) <= {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.2}[precision]


@pytest.mark.parametrize("precision", SUPPORTED)
@pytest.mark.parametrize("lookahead", [0, 1, 6, 69])
def test_any_chunking_equals_one_pass(precision: Precision, lookahead: int) -> None:
    chain, pcm = make_chain(precision), noise(40_000) * 0.1
    expected = one_pass(chain, pcm, lookahead)
    bound = streaming_bound(precision, expected, pcm, lookahead)
    for sizes in ([1280], random_sizes(lookahead, 20_000)):
        assert worst(streamed(chain, [pcm], pushes=[sizes], lookaheads=[lookahead])[0], expected) <= bound


@pytest.mark.parametrize("precision", SUPPORTED)
def test_ragged_sessions_equal_themselves_alone(precision: Precision) -> None:
    chain = make_chain(precision)
    streams = [noise(n, seed=n) * loud for n, loud in ((30_011, 0.1), (22_000, 10.0), (400, 0.1), (35_000, 1e-4))]
    lookaheads = [0, 6, 1, 6]
    pushes = [random_sizes(i, 10_000) for i in range(4)]
    out = streamed(chain, streams, pushes=pushes, lookaheads=lookaheads, seed=1, move_at=5)
    for x, y, lookahead in zip(streams, out, lookaheads, strict=True):
        expected = one_pass(chain, x, lookahead)
        assert worst(y, expected) <= streaming_bound(precision, expected, x, lookahead)


@pytest.mark.parametrize("precision", SUPPORTED)
def test_replays_change_nothing(precision: Precision) -> None:
    """Weights of every layer, caches full and less full, rows that bring all or less: to the bit."""
    encoder = prepare(make_encoder(), precision)
    replays = Replays(encoder.replays.layers, after=0) if encoder.replays else None
    assert replays is not None
    states = [encoder.init_state(3) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        frames = (1, 3, 1, 2)[step % 4]
        mel = torch.randn(3, 8 * frames, 80, generator=generator)
        all_full = torch.full((3,), 8 * frames)
        valid = all_full if step % 3 else 8 * torch.randint(0, frames + 1, (3,), generator=generator)
        out = []
        for state, encoder.replays in zip(states, (replays, None), strict=True):
            y, count = encoder.step(mel, state, valid, valid < 0, frames - 1)
            out.append(y.masked_fill(~count_mask(count, y.shape[1])[..., None], 0.0))
        assert torch.equal(*out)
    for (name, ours), theirs in zip(states[0].to_dict().items(), states[1].to_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert replays.of((torch.Size((3, 1, 32)), torch.Size((3, 1, 1, 71)), 0), mel) is not None


def test_a_copy_is_prepared_and_the_original_still_trains() -> None:
    encoder = make_encoder()
    prepare(copy.deepcopy(encoder), SUPPORTED[-1])
    encoder.train()
    encoder(noise(1, 40, 80), torch.tensor([40]))[0].square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_what_cannot_be_prepared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call eval\(\)"):
        prepare(make_encoder().train())
    with pytest.raises(ValueError, match="fp32, fp16, int8"):
        prepare(make_encoder(), "int4")  # type: ignore[arg-type]
    with pytest.raises(MissingDevice, match="float64"):
        prepare(make_encoder().double())


def test_a_build_without_the_kernels_names_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder()
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"])
    with pytest.raises(MissingDevice, match="cannot run fp16 linears on this CPU; use fp32"):
        prepare(encoder, "fp16")
    assert not any(isinstance(m, PackedLinear) for m in encoder.modules())


def test_packed_weights_are_not_saved_by_mistake() -> None:
    with pytest.raises(RuntimeError, match="save before prepare"):
        prepare(make_encoder()).state_dict()


@pytest.fixture
def probed() -> Iterator[None]:
    """What is known of the CPU is asked anew, and once more afterwards."""
    exact_levels.cache_clear()
    yield
    exact_levels.cache_clear()


@pytest.mark.skipif("int8" not in SUPPORTED, reason="this CPU cannot run int8")
def test_a_cpu_that_cuts_pairs_short_gets_seven_bits(probed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(x: Tensor, scale: float, zero: int, weight: object) -> Tensor:
        saturates = zero > FEW + 1
        return real(x, scale, zero, weight) * (0.9 if saturates else 1.0)

    real = module._int8_linear
    monkeypatch.setattr(module, "_int8_linear", cut)
    assert exact_levels() == FEW
    assert "int8" in supported()
    assert Int8Linear(nn.Linear(8, 8)).levels == FEW


@pytest.mark.skipif("int8" not in SUPPORTED, reason="this CPU cannot run int8")
def test_a_cpu_whose_sums_are_wrong_is_not_given_int8(probed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Int8Linear, "forward", lambda self, x: torch.full((1, 16), 32.5))
    with pytest.raises(MissingDevice, match="cannot run int8 linears on this CPU; use fp32 or fp16"):
        prepare(make_encoder(), "int8")
