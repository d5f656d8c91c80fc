"""Parts by name: each asks for what it needs, and exports wait until they are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vivavoce.recipes.train.tts import parts, train
from vivavoce.recipes.train.tts.parts import PARTS, export_converter, export_voice, learner, weights
from vivavoce.speech.errors import BadConfig

CPU = torch.device("cpu")


def test_every_part_has_its_learner() -> None:
    assert set(parts._LEARNERS) == set(PARTS)


def test_parts_ask_for_those_before_them(config_file: Path, data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="train the part speech first"):
        learner("planner", train.read_config(config_file), data_folder, tmp_path, CPU)


def test_nothing_is_exported_before_it_is_whole(config_file: Path, tmp_path: Path) -> None:
    config = train.read_config(config_file)
    assert export_voice(config, tmp_path, "float32") is None
    assert export_converter(config, tmp_path, "float32") is None
    with pytest.raises(BadConfig, match="not there yet"):
        weights(tmp_path, "vocoder")
