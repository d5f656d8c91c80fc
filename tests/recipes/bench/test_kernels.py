"""`vivavoce bench kernels`: without a GPU it says so; what it compares is the same calculation."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from twins import DEVICE

from vivavoce.kernels.lazy import installed
from vivavoce.kernels.registry import cache_attention, conv_step, relative_attention
from vivavoce.recipes.bench import kernels
from vivavoce.recipes.bench.kernels import (
    Plan,
    attention_without_rotary,
    bench_kernels,
    compare,
    decode_inputs,
    encoder_inputs,
    flexible_without_rotary,
    main,
)
from vivavoce.recipes.bench.report import Different
from vivavoce.speech.errors import MissingDevice


def test_without_a_gpu_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDevice, match="no usable GPU here; run it on"):
        main(["--quick"])


def test_without_triton_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "installed", lambda: False)
    with pytest.raises(MissingDevice, match="pip install triton"):
        bench_kernels(Plan())


def test_sdpa_does_the_same_but_for_the_turning() -> None:
    inputs = decode_inputs(2, 5, torch.float32, "cpu")
    inputs["table"] = torch.stack((torch.ones(6, 64), torch.zeros(6, 64)), dim=1)  # turns by nothing
    expected = cache_attention(**inputs)
    assert torch.allclose(attention_without_rotary(inputs).transpose(1, 2), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_does_the_same_but_for_the_turning() -> None:
    inputs = decode_inputs(2, 5, torch.float32, "cpu")
    expected = attention_without_rotary(inputs)
    assert torch.allclose(flexible_without_rotary(inputs, flex_attention), expected, atol=1e-5)


def test_a_step_of_the_encoder_fits_its_operations() -> None:
    attention, conv = encoder_inputs(2, torch.float32, "cpu")
    assert relative_attention(*attention).shape == (2, 8, 4, 128)
    assert conv_step(*conv).shape == (2, 4, 1024)


def test_different_answers_are_not_timed() -> None:
    x = torch.ones(3)
    assert compare("tea", x + 1e-6, x) == pytest.approx(1e-6, rel=0.1)
    for other in (x + 1e-3, x * torch.nan):
        with pytest.raises(Different, match="tea: the twin and plain torch differ"):
            compare("tea", other, x)


@pytest.mark.skipif(not installed(), reason="PyTorch comes without triton on this platform")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # of triton's interpreter
def test_every_case_has_its_row() -> None:
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    rows = bench_kernels(Plan(((1, 20),), (1,), (1,), dtype, replays=1, warm=1, copied=1000, device=DEVICE.type))
    assert [row.case.split(",")[0] for row in rows] == ["decode attention"] * 4 + ["RMSNorm", "rotary", "SwiGLU",
                                                          "relative attention", "convolution step"]  # fmt: skip
    assert all(row.ours > 0 for row in rows)
