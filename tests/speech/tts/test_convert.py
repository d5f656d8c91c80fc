"""Conversion: streaming equals offline, and parts that do not belong together are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_converter import make_converter
from small_voice import SMALL, make_voice
from streams import one_pass, streamed

from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.tts.convert import Converter
from vivavoce.speech.tts.voice import CONFIG, Voice


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_streamed_sound_is_offline_sound(dtype: torch.dtype, error: float) -> None:
    converter, voice = make_converter().to(dtype), make_voice(dtype)
    stage = converter.stage(voice, steps=2)
    streams = [0.1 * torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (500, 9260, 16_000)]
    made = streamed(stage, streams, pushes=[[320], [700, 1500], [5000]], lookaheads=[0, 1, 1], move_at=3)
    for x, y, lookahead in zip(streams, made, (0, 1, 1), strict=True):
        assert float((y - one_pass(stage, x, lookahead)).abs().max()) < error
        assert abs(len(y) / 24_000 - len(x) / 16_000) < 0.16
        whole = converter.convert(voice, x, steps=2, lookahead=lookahead)
        assert float((y - whole).abs().max()) < error


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_saved_converter_is_the_same(tmp_path: Path, dtype: str) -> None:
    converter = make_converter()
    converter.save(tmp_path, dtype=dtype)  # type: ignore[arg-type]
    loaded = Converter.load(tmp_path)
    assert loaded.config == converter.config
    assert loaded.tokenizer.fingerprint() == converter.tokenizer.fingerprint()


def test_a_planner_refuses_the_tokens_of_another_tokenizer(tmp_path: Path) -> None:
    converter = make_converter()
    converter.save(tmp_path)
    converter.tokenizer = make_converter(seed=1).tokenizer
    with pytest.raises(BadCheckpoint, match="take both from one training run"):
        converter.save(tmp_path / "other")
    values = json.loads((tmp_path / CONFIG).read_text())
    values["planner"]["fingerprint"] = "0" * 16
    (tmp_path / CONFIG).write_text(json.dumps(values))
    with pytest.raises(BadCheckpoint, match="tokenizer 0000"):
        Converter.load(tmp_path)


def test_a_voice_of_another_shape_is_refused() -> None:
    other = Voice(replace(SMALL, acoustic=replace(SMALL.acoustic, condition=9)))
    with pytest.raises(BadCheckpoint, match="trained for small"):
        make_converter().stage(other)


def test_folders_that_are_no_converter_say_so(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no such converter"):
        Converter.load(tmp_path)
    make_voice().save(tmp_path)
    with pytest.raises(BadCheckpoint, match="not a converter"):
        Converter.load(tmp_path)
