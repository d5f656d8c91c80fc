"""The encoder: any lookahead, any chunking, any company in the batch gives what one pass gives."""

import pytest
import torch
from streams import one_pass, random_sizes, streamed, worst
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vivavoce.kernels import registry
from vivavoce.kernels.lazy import installed
from vivavoce.speech.features import LogMel
from vivavoce.speech.nn import encoder as module
from vivavoce.speech.nn.encoder import Chunks, Encoder, EncoderConfig
from vivavoce.streaming.chain import Chain
from vivavoce.streaming.engine import Engine

CONFIG = EncoderConfig(mels=80, width=32, layers=2, heads=4, hidden=48, channels=8, dropout=0.0)
LOOKAHEADS = [0, 1, 2, 6, 13, 35, 69]


def make_encoder(dtype: torch.dtype = torch.float64) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(CONFIG)
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return encoder.to(dtype).eval()


def make_chain(dtype: torch.dtype = torch.float64, block: int = 4096) -> Chain:
    encoder = make_encoder(dtype)
    return Chain([LogMel().to(dtype), encoder], item_shapes=[(), (80,)], like=torch.zeros((), dtype=dtype), block=block)


def noise(samples: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.1


def whole(chain: Chain, pcm: Tensor, lookahead: int, chunks: Chunks | None = None) -> Tensor:
    """The training path: no caches, one masked pass."""
    mel, count = chain.stages[0](pcm[None], torch.tensor([len(pcm)]))  # type: ignore[operator]
    with torch.no_grad():
        y, n = chain.stages[1](mel, count, lookahead, chunks)  # type: ignore[operator]
    return y[0, : int(n[0])]


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("samples", [0, 100, 160, 1280, 1440, 50_000, 200_003])
def test_steps_equal_one_masked_pass(lookahead: int, samples: int) -> None:
    chain, pcm = make_chain(block=64), noise(samples)
    expected = whole(chain, pcm, lookahead)
    assert worst(one_pass(chain, pcm, lookahead), expected) <= 1e-10
    assert len(expected) == chain.stages[1].encoder_frames(samples // 160)  # type: ignore[attr-defined]


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_any_chunking_equals_one_pass(lookahead: int) -> None:
    chain, pcm = make_chain(), noise(70_000)
    expected = whole(chain, pcm, lookahead)
    for sizes in ([320], [160_000], random_sizes(lookahead, 40_000)):
        assert worst(streamed(chain, [pcm], pushes=[sizes], lookaheads=[lookahead])[0], expected) <= 1e-10


def test_one_sample_at_a_time_equals_one_pass() -> None:
    chain, pcm = make_chain(), noise(3000)
    assert worst(streamed(chain, [pcm], pushes=[[1]], lookaheads=[0])[0], whole(chain, pcm, 0)) <= 1e-10


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("seed", range(3))
def test_ragged_sessions_equal_themselves_alone(seed: int, dtype: torch.dtype, bound: float) -> None:
    chain = make_chain(dtype)
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 90_000, (6,), generator=g).tolist()
    streams = [noise(n, seed=n, dtype=dtype) for n in lengths]
    lookaheads = [0, 1, 6, 13, 69, 6]
    out = streamed(
        chain,
        streams,
        pushes=[random_sizes(seed * 10 + i, 20_000) for i in range(6)],
        lookaheads=lookaheads,
        seed=seed,
        move_at=7,
    )
    for x, y, lookahead in zip(streams, out, lookaheads, strict=True):
        assert worst(y, whole(chain, x, lookahead)) <= bound


def test_lookahead_may_change_at_a_chunk_boundary() -> None:
    chain, pcm = make_chain(), noise(80_000)
    engine: Engine[object] = Engine(chain, 2)  # type: ignore[type-var]
    slot, plan, out, at = engine.open(lookahead=0), [], [], 0
    for lookahead, chunks in ((0, 3), (6, 2), (1, 4), (13, 1), (3, 1)):
        engine.set_lookahead(slot, lookahead)
        frames = chunks * (lookahead + 1)
        stop = 1280 * (len(plan) + frames - 1) + 200  # the last sample that these chunks need
        out.append(engine.step({slot: pcm[at:stop]})[slot][0])
        assert len(out[-1]) == frames
        plan += [lookahead + 1] * frames
        at = stop
    sizes = torch.tensor(plan)
    begin = torch.tensor([0, 1, 2] + [3] * 7 + [10] * 7 + [17, 17, 19, 19, 21, 21, 23, 23] + [25] * 14 + [39] * 4)
    mel, _ = chain.stages[0](pcm[None], torch.tensor([len(pcm)]))  # type: ignore[operator]
    mel = mel[:, : 8 * (len(plan) - 1) + 1]
    with torch.no_grad():
        expected, _ = chain.stages[1](mel, torch.tensor([mel.shape[1]]), chunks=Chunks(begin, sizes))  # type: ignore[operator]
    assert worst(torch.cat(out), expected[0]) <= 1e-10


def test_left_context_is_seen_and_no_more() -> None:
    encoder = make_encoder()
    mel = torch.randn(1, 8 * 100 - 7, 80, dtype=torch.float64, requires_grad=True)
    y, _ = encoder(mel, torch.tensor([mel.shape[1]]), lookahead=6)
    y[0, 90].sum().backward()
    touched = mel.grad[0].abs().sum(-1).nonzero()[:, 0]  # type: ignore[index]
    # chunk 12 holds frames 84 to 90; each of two layers reaches ten chunks and the convolution's 8 frames back
    assert int(touched.max()) == 8 * 90
    assert int(touched.min()) == 0
    far = Encoder(EncoderConfig(width=32, layers=1, heads=4, hidden=48, channels=8, dropout=0.0)).double()
    mel.grad = None
    far(mel, torch.tensor([mel.shape[1]]), lookahead=6)[0][0, 90, 0].backward()  # a sum is constant: it is normalised
    touched = mel.grad[0].abs().sum(-1).nonzero()[:, 0]  # type: ignore[index]
    # the convolution looks back to frame 82, whose chunk begins at 77; attention reaches 70 frames before that; the
    # subsampling 14 mel frames before that
    assert int(touched.min()) == 8 * 7 - 14


def test_tabulated_positions_change_nothing() -> None:
    chain, pcm = make_chain(), noise(90_000)
    before = one_pass(chain, pcm, 6)
    for layer in chain.stages[1].layers:  # type: ignore[attr-defined]
        layer.attention.tabulate(139)
    assert worst(one_pass(chain, pcm, 6), before) <= 1e-10


def test_what_a_step_gives_can_be_trained_on() -> None:
    encoder = Encoder(EncoderConfig(width=16, layers=1, heads=2, hidden=24, channels=4)).eval()
    state, valid = encoder.init_state(1), torch.tensor([16])
    y, count = encoder.step(torch.randn(1, 16, 80), state, valid, valid < 0, 1)
    assert not any(x.is_inference() for x in (y, count, *state.to_dict().values()))
    weight = torch.ones(16, requires_grad=True)
    (y * weight).sum().backward()
    assert weight.grad is not None


def test_state_does_not_grow() -> None:
    chain = make_chain(torch.float32)
    engine: Engine[object] = Engine(chain, 1)  # type: ignore[type-var]
    slot = engine.open(lookahead=1)
    size = engine.state.nbytes  # type: ignore[attr-defined]
    for i in range(40):
        engine.step({slot: noise(16_000, i, torch.float32)})
    assert engine.state.nbytes == size  # type: ignore[attr-defined]


def test_gradients_reach_every_parameter() -> None:
    encoder = make_encoder()
    y, _ = encoder(torch.randn(2, 60, 80, dtype=torch.float64), torch.tensor([60, 33]), lookahead=1)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a GPU; where there is one kernels run as they are")
def test_a_step_asks_a_gpu_nothing_and_stays_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a CUDA graph can hold it. On tensors without memory that call themselves CUDA's: asking for a value, or
    mixing devices, raises there."""
    monkeypatch.setattr(registry, "installed", lambda: False)  # kernels need memory
    with FakeTensorMode():
        with torch.device("cuda"):
            encoder, mel, valid = Encoder(CONFIG).eval(), torch.randn(3, 32, 80), torch.full((3,), 32)
        encoder.tabulate()
        y, count = encoder.step(mel, encoder.init_state(3), valid, valid < 0, 3)
        assert y.device.type == count.device.type == "cuda"


@pytest.mark.skipif(not installed(), reason="PyTorch comes without triton on this platform")
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # of triton's interpreter
@pytest.mark.skipif(torch.cuda.is_available(), reason="runs kernels in the interpreter; on a GPU they run as they are")
def test_the_kernels_of_a_gpu_step_as_plain_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(width=16, layers=1, heads=2, hidden=24, channels=4)).eval()
    sizes = [(16, [16, 8]), (8, [8, 0])]
    mel = torch.randn(2, 24, 80)

    def steps() -> Tensor:
        state, rest, out = encoder.init_state(3), mel, list[Tensor]()
        for n, counts in sizes:
            valid = torch.tensor(counts)
            y, real = encoder.step(rest[:, :n], state.narrow(1, 2), valid, valid < 0)  # of a larger batch
            out.append(y.masked_fill((torch.arange(y.shape[1]) >= real[:, None])[..., None], 0))
            rest = rest[:, n:]
        return torch.cat(out, 1)

    expected = steps()
    for name in ("conv_step", "relative_attention"):
        monkeypatch.setattr(module, name, getattr(registry, name).twin)
    assert worst(steps(), expected) <= 1e-5
