"""Training of the token model: it learns the tokens of what it hears, and padding and text are no targets."""

from __future__ import annotations

from pathlib import Path

import torch
from small_converter import make_converter

from vivavoce.recipes.train.tts.align import Aligned
from vivavoce.recipes.train.tts.data import gather
from vivavoce.recipes.train.tts.schedule import Learner, OptimizerConfig
from vivavoce.recipes.train.tts.writer import WriterPart, WriterTraining
from vivavoce.speech.tts.phones import SYMBOLS, encode
from vivavoce.speech.tts.writer import NOT_PREDICTED, Writer, WriterConfig

CPU = torch.device("cpu")
OPTIMIZER = OptimizerConfig(rate=1e-2, steps=40, warmup=1, cooldown=0.1, average=0.5)
ALIGNED = Aligned(encode(["K", "AE1", "T", " ", "S", "AE1", "T", "."]), [5, 6, 7, 0, 6, 6, 7, 7])


def make_part(data_folder: Path, cache: Path) -> WriterPart:
    recordings = gather(data_folder / "speech", ["one"], cache)
    tokenizer = make_converter().tokenizer
    config = WriterConfig(len(SYMBOLS), 12, tokenizer.fingerprint(), width=16, hidden=24, layers=1, heads=2, read=3,
                          write=4)  # fmt: skip
    told = [(r, ALIGNED) for r in recordings]
    return WriterPart(Writer(config), told[1:], told[:1], tokenizer,
                      WriterTraining(items=40, longest=600, dropped=0.0, others_until=2, optimizer=OPTIMIZER), CPU,
                      seed=1)


def test_a_line_has_a_token_for_every_four_frames(data_folder: Path, tmp_path: Path) -> None:
    part = make_part(data_folder, tmp_path / "cache")
    whole, targets = part._line(part.train[0], interleaved=False)
    c = part.writer.config
    assert whole[:8] == ALIGNED.phones
    assert sum(c.symbols <= item < c.over for item in whole) == sum(ALIGNED.durations) // 4
    assert targets[-1] == c.end
    turns, _ = part._line(part.train[0], interleaved=True)
    assert sorted(turns) == sorted(whole)
    assert turns != whole


def test_padding_and_text_are_no_targets(data_folder: Path, tmp_path: Path) -> None:
    part = make_part(data_folder, tmp_path / "cache")
    x, targets = part._together([([1, 2, 90], [NOT_PREDICTED, NOT_PREDICTED, 91]), ([1], [80])])
    assert x.tolist() == [[1, 2, 90], [1, 0, 0]]
    assert targets[1].tolist() == [80, NOT_PREDICTED, NOT_PREDICTED]


def test_it_learns(data_folder: Path, tmp_path: Path) -> None:
    part = make_part(data_folder, tmp_path / "cache")
    learner = Learner(part, OPTIMIZER, CPU)
    losses = [learner.step()["items"] for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]
    figures = part.measure(part.model)
    assert set(figures) == {"whole, nats", "whole, right", "in turns, nats", "in turns, right"}
    assert 0 <= figures["whole, right"] <= 1
