"""A run's data: phases of a curriculum in order, the same batches after a restart, dev sets apart."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.augment import AugmentConfig
from vivavoce.recipes.data.batches import BatchConfig
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.tokenizer import train_tokenizer
from vivavoce.recipes.train.asr.data import DataConfig, Phase, TrainingData


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    folder = tmp_path / "speech" / "noises"
    folder.mkdir(parents=True)
    rows = []
    for i in range(20):
        seconds = 0.5 + 0.1 * i
        pcm = np.random.default_rng(i).standard_normal(round(16000 * seconds)).astype(np.float32) * 0.1
        soundfile.write(folder / f"{i}.wav", pcm, 16000)
        split, text = ("dev", f"dev {i}") if i % 5 == 0 else ("train", "a word")
        rows.append(Utterance(folder / f"{i}.wav", seconds, 16000, "s", split, text))
    manifest.write(folder / "manifest.tsv", rows)
    config = DataConfig(batches=BatchConfig(seconds=6.0, buckets=2),
                        curriculum=(Phase(3, 1.0, 2.0), Phase(5, 1.5, 3.0)), augment=AugmentConfig(rooms=1),
                        dev=("noises",), noise_share=0.0)
    return TrainingData(config, tmp_path, train_tokenizer(["a word"], 32), seed=1)


def test_phases_come_in_order_with_their_own_lengths(data: TrainingData) -> None:
    longest = [int(batch.samples.max()) / 16000 for batch in islice(data.batches(0), 12)]
    slack = 1.12  # speed augmentation
    assert all(x <= 1.0 * slack for x in longest[:3])
    assert all(x <= 1.5 * slack for x in longest[3:5])
    assert max(longest[5:]) > 1.5 * slack


@pytest.mark.parametrize("start", [1, 3, 4, 7])
def test_a_restart_gives_the_batches_that_would_have_come(data: TrainingData, start: int) -> None:
    whole = list(islice(data.batches(0), 10))[start:]
    for a, b in zip(whole, islice(data.batches(start), 10 - start), strict=True):
        assert torch.equal(a.pcm, b.pcm)
        assert torch.equal(a.tokens, b.tokens)


def test_dev_recordings_are_measured_and_never_trained_on(data: TrainingData, tmp_path: Path) -> None:
    dev = data.dev(tmp_path)["noises"]
    assert [text for _, text in dev] == ["dev 0", "dev 5", "dev 10", "dev 15"]
    assert all(u.split == "train" for u in data.recordings.utterances)
    assert "20 utterances" not in data.summary
