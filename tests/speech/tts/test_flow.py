"""The flow: streaming equals offline at any chunk size, step count and company."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from streams import one_pass, random_sizes, streamed, worst
from torch import Tensor

from vivavoce.speech.tts import mel
from vivavoce.speech.tts.config import FlowConfig
from vivavoce.speech.tts.flow import MOST_STEPS, Ahead, Flow, FlowStage, gaussian, moments, sees
from vivavoce.streaming.chain import Chain

CONFIG = FlowConfig(width=16, hidden=24, heads=2, layers=2, kernel=3, chunk=4, left=10, lookahead=2)
WIDTH = mel.WIDTH + 6
ERRORS = [(torch.float64, 1e-10), (torch.float32, 1e-4)]


def make_flow(dtype: torch.dtype = torch.float64) -> Flow:
    torch.manual_seed(0)
    flow = Flow(CONFIG, WIDTH)
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.15)
    return flow.to(dtype).eval()


def make_stage(dtype: torch.dtype = torch.float64, steps: int = 3, guidance: float = 0.0) -> FlowStage:
    one = torch.ones(mel.WIDTH, dtype=dtype)
    return FlowStage(make_flow(dtype), one, 2 * one, steps=steps, guidance=guidance)


def make_chain(stage: FlowStage, dtype: torch.dtype = torch.float64) -> Chain:
    return Chain([stage.flow.ahead, stage], item_shapes=[(WIDTH,), (mel.WIDTH + CONFIG.width,)],
                 like=torch.zeros((), dtype=dtype), max_lookahead=5, block=40)


def told(frames: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(frames, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "error"), ERRORS)
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_any_chunking_in_any_company_equals_one_pass(dtype: torch.dtype, error: float, guidance: float) -> None:
    chain = make_chain(make_stage(dtype, guidance=guidance), dtype)
    streams = [told(n, n, dtype) for n in (1, 9, 30, 47)]
    lookaheads = [0, 2, 0, 5]
    made = streamed(chain, streams, pushes=[random_sizes(i, 9) for i in range(4)], lookaheads=lookaheads, move_at=5)
    for x, y, lookahead in zip(streams, made, lookaheads, strict=True):
        assert y.shape == (len(x), mel.WIDTH)
        assert worst(y, one_pass(chain, x, lookahead)) < error


def test_one_pass_through_the_chain_is_one_masked_pass_of_the_network() -> None:
    """Written out: noise, Euler steps over the whole stream, no memories at all."""
    stage, x, n = make_stage(), told(27), 27
    flow, count = stage.flow, torch.tensor([27])
    seen = flow.ahead(x[None], count)
    mask = sees(n, CONFIG, 1, torch.tensor([0]), count, 0)
    y = gaussian(torch.tensor([0]), torch.arange(n)[None], mel.WIDTH)
    times = [1 - math.cos(math.pi / 2 * i / 3) for i in range(4)]
    for t, following in pairwise(times):
        end = flow(y, torch.tensor([t], dtype=torch.float64), seen, mask, torch.ones(1, n, 1))
        y = y + (following - t) / (1 - t) * (end - y)
    assert worst(one_pass(make_chain(stage), x, 1), (y * 2 + 1)[0].detach()) < 1e-10


def test_sessions_at_different_step_numbers_share_a_batch() -> None:
    stage = make_stage(steps=4)
    x = flow_input(stage, 2, 8)
    state = stage.init_state(2)
    state.steps.copy_(torch.tensor([1, 4]))
    both, _ = stage.step(x, state, torch.tensor([8, 8]), torch.tensor([True, True]))
    for row, steps in enumerate((1, 4)):
        alone = make_stage(steps=steps)
        y, _ = alone.step(x[row : row + 1], alone.init_state(1), torch.tensor([8]), torch.tensor([True]))
        assert worst(both[row], y[0]) < 1e-10


def flow_input(stage: FlowStage, rows: int, frames: int) -> Tensor:
    x = torch.stack([told(frames, i) for i in range(rows)])
    return stage.flow.ahead(x, torch.full((rows,), frames)).detach()


def test_memory_is_bounded_and_what_left_it_is_forgotten() -> None:
    chain = make_chain(make_stage(steps=1))
    x = told(60)
    other = x.clone()
    other[:4] += 1
    a, b = one_pass(chain, x), one_pass(chain, other)
    assert worst(a[-8:], b[-8:]) < 1e-12
    assert worst(a[:8], b[:8]) > 1e-6


def test_a_chunk_sees_itself_and_some_frames_before() -> None:
    mask = sees(12, CONFIG, 0, torch.tensor([0]), torch.tensor([12]), 0)[0, 0]
    assert mask[0].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert mask[11].nonzero().flatten().tolist() == list(range(12))
    short = sees(8, CONFIG, 0, torch.tensor([100]), torch.tensor([8]), 10)[0, 0]
    assert int(short[7].sum()) == 10 + 4


def test_looking_ahead_holds_back_and_lets_go() -> None:
    torch.manual_seed(0)
    ahead = Ahead(CONFIG, WIDTH).double()
    x = told(7)
    state = ahead.init_state(1)
    first, count = ahead.step(x[None, :5], state, torch.tensor([5]), torch.tensor([False]))
    rest, more = ahead.step(x[None, 5:], state, torch.tensor([2]), torch.tensor([True]))
    assert (int(count), int(more)) == (3, 4)
    whole = ahead(x[None], torch.tensor([7]))[0]
    assert torch.allclose(torch.cat((first[0, :3], rest[0, :4])), whole, atol=1e-12)
    assert torch.equal(whole[:, : mel.WIDTH], x[:, : mel.WIDTH])


def test_an_untrained_flow_gives_the_mean() -> None:
    flow = Flow(CONFIG, WIDTH).double()
    stage = FlowStage(flow, torch.zeros(mel.WIDTH), torch.ones(mel.WIDTH), steps=5)
    x = told(8)
    y, _ = stage.step(flow.ahead(x[None], torch.tensor([8])), stage.init_state(1), torch.tensor([8]),
                      torch.tensor([True]))
    assert torch.allclose(y[0], x[:, : mel.WIDTH], atol=1e-12)


def test_the_path_begins_slowly_and_ends_at_one() -> None:
    steps = torch.tensor([4])
    t = [float(moments(i, steps)) for i in range(5)]
    assert t[0] == 0
    assert t[4] == pytest.approx(1)
    assert all(b - a < d - c for a, b, c, d in zip(t, t[1:], t[1:], t[2:], strict=False))


def test_noise_is_normal_and_belongs_to_its_frame() -> None:
    draws = gaussian(torch.tensor([7]), torch.arange(1000)[None], 20)[0]
    assert abs(float(draws.mean())) < 0.03
    assert abs(float(draws.std()) - 1) < 0.03
    assert torch.equal(gaussian(torch.tensor([7]), torch.tensor([[500]]), 20)[0, 0], draws[500])


@pytest.mark.parametrize("steps", [0, MOST_STEPS + 1])
def test_step_numbers_have_bounds(steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        make_stage(steps=steps)


def test_training_reaches_every_weight() -> None:
    flow = make_flow()
    x, count = told(8)[None], torch.tensor([8])
    mask = sees(8, CONFIG, 0, torch.tensor([0]), count, 0)
    seen = flow.ahead(x, count)
    for given in (seen, flow.unguided(seen)):
        flow(x[..., : mel.WIDTH], torch.tensor([0.3]), given, mask, torch.ones(1, 8, 1)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in flow.parameters())
