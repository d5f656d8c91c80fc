"""The recurrent language model: one piece at a time or a sentence at once, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vivavoce.speech.asr.neural_lm import NeuralLm
from vivavoce.speech.errors import BadCheckpoint

PIECES = 11


def made() -> NeuralLm:
    torch.manual_seed(0)
    return NeuralLm(PIECES, 6, 8).requires_grad_(False).eval()


def test_probabilities_sum_to_one_and_cutting_a_sentence_changes_nothing() -> None:
    model, said = made(), torch.randint(0, PIECES + 1, (9, 3))
    whole, end = model(said, model.start(3))
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(9, 3))
    first, memory = model(said[:4], model.start(3))
    second, last = model(said[4:], memory)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(last, end)


def test_sentences_are_scored_from_the_mark_on() -> None:
    model, said = made(), torch.randint(0, PIECES, (3, 5))
    after, _ = model(torch.full((1, 3), PIECES), model.start(3))
    found = model.log_probs(said)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found[:, 0], after[0].gather(1, said[:, :1])[:, 0])
    changed = said.clone()
    changed[:, 0] = (changed[:, 0] + 1) % PIECES
    assert not torch.allclose(model.log_probs(changed)[:, 1:], found[:, 1:])  # what came first is remembered


def test_a_file_gives_it_back_in_eight_bits(tmp_path: Path) -> None:
    model, said = made(), torch.randint(0, PIECES, (20, 12))
    model.save(tmp_path / "lm")
    loaded = NeuralLm.load(tmp_path / "lm")
    assert not loaded.training
    torch.testing.assert_close(loaded.log_probs(said), model.log_probs(said), atol=0.02, rtol=0)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    made().save(good)
    with pytest.raises(BadCheckpoint, match="bad: not a language model"):
        NeuralLm.load(bad)
    bad.write_bytes(good.read_bytes()[:-7])
    with pytest.raises(BadCheckpoint, match="bad: not a language model"):
        NeuralLm.load(bad)
    tensors = load_file(good)
    del tensors["lstm.weight_hh_l0"]
    save_file(tensors, bad)
    with pytest.raises(BadCheckpoint, match=r"lstm\.weight_hh_l0"):
        NeuralLm.load(bad)
    save_file({"embedding.weight": torch.zeros(3), "head.weight": torch.zeros(3)}, bad)
    with pytest.raises(BadCheckpoint, match="bad"):
        NeuralLm.load(bad)
