"""Parts by name: each asks for what it needs, and exports wait until they are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vivavoce.recipes.train.tts import parts, train
from vivavoce.recipes.train.tts.parts import PARTS, export_converter, export_voice, learner, weights
from vivavoce.speech import checkpoint as speech_checkpoint
from vivavoce.speech.asr.model import AsrConfig, AsrModel
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.nn.encoder import EncoderConfig

CPU = torch.device("cpu")


def test_every_part_has_its_learner() -> None:
    assert set(parts._LEARNERS) == set(PARTS)


def test_parts_ask_for_those_before_them(config_file: Path, data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="train the part speech first"):
        learner("planner", train.read_config(config_file), data_folder, tmp_path, CPU)


def test_tokens_stay_those_of_the_recogniser_they_were_first_cut_from(tmp_path: Path) -> None:
    first, other = make_recogniser(tmp_path / "a", seed=0), make_recogniser(tmp_path / "b", seed=1)
    kept = parts._recogniser(str(first), tmp_path / "run").state_dict()
    again = parts._recogniser(str(other), tmp_path / "run").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in kept.items())


def make_recogniser(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    encoder = EncoderConfig(width=16, layers=2, heads=2, hidden=24, channels=8, left_context=20, dropout=0.0)
    tokenizer = speech_checkpoint.load("small-en").tokenizer
    speech_checkpoint.save(AsrModel(AsrConfig("tiny", encoder, tokenizer.get_vocab_size())), tokenizer, folder)
    return folder


def test_nothing_is_exported_before_it_is_whole(config_file: Path, tmp_path: Path) -> None:
    config = train.read_config(config_file)
    assert export_voice(config, tmp_path, "float32") is None
    assert export_converter(config, tmp_path, "float32") is None
    with pytest.raises(BadConfig, match="not there yet"):
        weights(tmp_path, "vocoder")
