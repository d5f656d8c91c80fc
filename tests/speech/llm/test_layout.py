"""Weights laid out for a CPU: the same function, to the last bit of the weights where nothing is said of precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivavoce.speech.errors import MissingDevice
from vivavoce.speech.llm import hub, layout
from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.layout import prepare
from vivavoce.speech.llm.model import LanguageModel
from vivavoce.speech.nn.packed import Float16Linear, supported
from vivavoce.streaming.cache_policy import SinkRing

TOKENS = torch.arange(20)[None]
needs_half = pytest.mark.skipif("fp16" not in supported(), reason="this build of torch has no fp16 matrices")


def decoder(*, half: bool = False, tied: bool = True, biases: bool = True) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(LlmConfig(40, 16, 2, 4, 2, 6, 24, qkv_bias=biases, out_bias=biases, qk_norm=True, tied=tied)).eval()
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape) * 0.3 + (weight.dim() == 1)
        weight.data = weight.data.half().float() if half else weight.data
    return model


@torch.no_grad()
def scores(model: Decoder) -> Tensor:
    """Token by token, past the window, after a first block."""
    machine = LanguageModel(model, SinkRing(2, 8, 3))
    state, out = machine.init_state(1), []
    for x in (TOKENS[:, :4], *TOKENS[:, 4:].split(1, 1)):
        n = torch.tensor([x.shape[1]])
        out.append(machine.step(x, state, n, n < 0)[0])
    return model.logits(torch.cat(out, 1))


def close(found: Tensor, expected: Tensor, limit: float) -> bool:
    return float((found - expected).abs().max() / expected.abs().max()) <= limit


@pytest.mark.parametrize("tied", [True, False])
def test_another_order_in_memory_changes_no_value(tied: bool) -> None:
    before = decoder(tied=tied)
    expected, values = scores(before), {n: t.clone() for n, t in before.state_dict().items()}
    after = prepare(before, "fp32")
    assert close(scores(after), expected, 1e-5)
    assert all(torch.equal(t, values[n]) for n, t in after.state_dict().items())
    assert not any(p.requires_grad for p in after.parameters())


@needs_half
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biases", [True, False])
def test_weights_that_are_float16_are_kept_so_and_give_the_same(tied: bool, biases: bool) -> None:
    model = decoder(half=True, tied=tied, biases=biases)
    expected = scores(model)
    prepare(model)
    assert isinstance(model.layers[0].gate_up, Float16Linear)
    assert close(scores(model), expected, 1e-5)


def test_weights_that_float16_would_change_stay_as_they_are_unless_it_is_asked_for() -> None:
    model = decoder()
    expected = scores(model)
    prepare(model)
    assert isinstance(model.layers[0].gate_up, torch.nn.Linear)
    if "fp16" in supported():
        prepare(model, "fp16")
        assert close(scores(model), expected, 5e-3)
        assert not close(scores(model), expected, 1e-6)


def test_what_is_not_float32_is_left_alone() -> None:
    double = decoder().double()
    assert prepare(double).layers[0].gate_up.weight.is_contiguous()


def test_a_prepared_decoder_in_float32_is_saved_like_any_other(tmp_path: Path) -> None:
    model = prepare(decoder(), "fp32")
    hub.save(model, tmp_path)
    assert close(scores(hub.load_decoder(tmp_path)), scores(model), 1e-5)


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="fp8"):
        prepare(decoder(), "fp8")
    with pytest.raises(ValueError, match="eval"):
        prepare(decoder().train())
    monkeypatch.setattr(layout, "supported", lambda: ["fp32"])
    with pytest.raises(MissingDevice, match="use fp32"):
        prepare(decoder(), "fp16")
    assert isinstance(prepare(decoder(half=True)).layers[0].down, torch.nn.Linear)
