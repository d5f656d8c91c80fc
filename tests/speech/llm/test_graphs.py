"""Graphs of decoding: the smallest size that fits is captured once, and a replay is a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from vivavoce.kernels import registry
from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.graphs import DecodeGraphs, Replay
from vivavoce.speech.llm.model import LanguageModel
from vivavoce.streaming.cache_policy import SinkRing
from vivavoce.streaming.eight_bits import Kept

POLICY = SinkRing(2, 6, 3)


def machine(device: str = "cpu") -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(Decoder(LlmConfig(20, 16, 2, 4, 2, 6, 24)).double().eval().to(device), POLICY)
    model.turned, model.lean = False, None  # as on a GPU, where a kernel turns the keys
    return model


def compare(device: str, capture: Callable[[Callable[[], Tensor]], Replay] | None) -> DecodeGraphs:
    """Sessions that pause differently, by graphs and by steps, until the ring has gone round."""
    model = machine(device)
    mine, plain = model.init_state(6), model.init_state(6)
    graphs = DecodeGraphs(model, mine, capture)
    draw = torch.Generator().manual_seed(1)
    for most in (1, 2, 2, 5, 6, 3) * 5:
        counts = [int(torch.rand((), generator=draw) < 0.7) for _ in range(most - 1)] + [1] + [0] * (6 - most)
        tokens = torch.randint(0, 20, (6,), generator=draw).to(device)
        valid = torch.tensor(counts, device=device)
        expected, _ = model.step(tokens[:, None], plain, valid, valid < 0)
        torch.testing.assert_close(graphs(tokens, counts), expected[:, 0], rtol=0, atol=1e-10)
    assert torch.equal(mine.cache.length, plain.cache.length)
    return graphs


def test_a_replay_is_a_step_and_sizes_are_captured_once() -> None:
    captures: list[Replay] = []

    def eager(run: Callable[[], Tensor]) -> Replay:
        run()  # as a capture runs it
        captures.append(run)
        return run

    graphs = compare("cpu", eager)
    assert sorted(graphs.replays) == graphs.sizes[: len(graphs.replays)] == [1, 2, 4, 6]
    assert len(captures) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a GPU; where there is one the next test captures")
@pytest.mark.parametrize("kept", [None, "int8", "fp8"])
def test_what_is_captured_asks_a_gpu_nothing_and_stays_on_it(
    kept: Kept | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without memory that call themselves CUDA's: asking for a value, or mixing devices, raises there."""
    monkeypatch.setattr(registry, "installed", lambda: False)  # kernels need memory
    model = machine()
    model.kept = kept
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            model.decoder, model.table = Decoder(model.decoder.config).eval(), torch.empty(model.table.shape)
        state = model.init_state(6)
        hidden = DecodeGraphs(model, state, lambda run: run)._decode(4)
        assert model.decoder.logits(hidden).device.type == "cuda"
        assert state.cache.kept.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            state.cache.length.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs need a GPU")
def test_on_a_gpu_a_replay_is_a_step() -> None:
    compare("cuda", None)
