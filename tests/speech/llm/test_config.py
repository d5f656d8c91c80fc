"""The decoder's configuration: frequencies, and sizes that make no model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vivavoce.speech.config import parse, to_dict
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.llm.config import LlmConfig, RopeScaling

SIZES: dict[str, Any] = {
    "vocabulary": 10,
    "width": 8,
    "layers": 1,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "hidden": 16,
}


def test_frequencies_fall_from_one_by_the_base() -> None:
    assert LlmConfig(**SIZES, theta=16.0).frequencies().tolist() == pytest.approx([1, 0.5, 0.25, 0.125])


def test_llama_scaling_leaves_fast_frequencies_and_divides_slow_ones() -> None:
    scaling = RopeScaling(8.0, low_frequency=1.0, high_frequency=4.0, original_positions=100)
    plain = LlmConfig(**SIZES | {"head_dim": 64}, theta=1e6).frequencies()
    scaled = LlmConfig(**SIZES | {"head_dim": 64}, theta=1e6, scaling=scaling).frequencies()
    for a, b in zip(plain.tolist(), scaled.tolist(), strict=True):
        turns = 100 * a / (2 * math.pi)
        low, high = a / 8, a
        assert b == pytest.approx(high if turns > 4 else low if turns < 1 else low + (high - low) * (turns - 1) / 3)
    assert torch.equal(scaled.sort(descending=True).values, scaled)


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"head_dim": 7}, {"layers": 0}, {"width": "8"}, {"depth": 2}])
def test_values_that_make_no_model_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadConfig):
        parse(LlmConfig, SIZES | wrong, "config.json")


def test_it_survives_being_written() -> None:
    config = LlmConfig(**SIZES, scaling=RopeScaling(8.0), ends=(3, 4))
    assert parse(LlmConfig, to_dict(config), "here") == config
