"""Training of what is said: parts of utterances keep their phones and frames together, and both models learn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from vivavoce.recipes.train.tts.align import Aligned
from vivavoce.recipes.train.tts.data import Recording
from vivavoce.recipes.train.tts.schedule import Learner, OptimizerConfig
from vivavoce.recipes.train.tts.speech import (
    RARE,
    Example,
    SpeechConfig,
    SpeechModel,
    SpeechPart,
    Told,
    collate,
    remake,
    shorten,
    stand_ins,
)
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.config import AcousticConfig, FlowConfig
from vivavoce.speech.tts.phones import SYMBOLS, decode, encode

CPU = torch.device("cpu")
PHONES = encode(["_", "K", "AE1", "T", " ", "S", "AE1", "T", ",", "D", "AO1", "G", "."])
DURATIONS = [4, 10, 20, 8, 0, 12, 18, 9, 15, 10, 30, 12, 20]
CONFIG = SpeechConfig(frames=250, longest=120, unguided=0.5, flow_from=2,
                      optimizer=OptimizerConfig(rate=1e-2, warmup=1))


def recordings() -> list[Recording]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(3):
        frames = torch.randn(sum(DURATIONS), mel.WIDTH, generator=generator) * 0.1 + torch.linspace(-1, 1, mel.WIDTH)
        frames += (torch.tensor(PHONES) % 2 - 0.5).repeat_interleave(torch.tensor(DURATIONS))[:, None]
        frames[:, mel.VOICED] = 1
        made.append(Recording(f"{i}", "S", "dev" if i == 2 else "train", "cat sat, dog",
                              torch.zeros(len(frames) * mel.HOP, dtype=torch.int16), frames))
    return made


def make_part(config: SpeechConfig = CONFIG, others: Sequence[Told] = ()) -> SpeechPart:
    torch.manual_seed(0)
    acoustic = AcousticConfig(width=16, hidden=24, heads=2, phone_layers=1, frame_layers=1, kernel=3, condition=4)
    flow = FlowConfig(width=16, hidden=24, heads=2, layers=1, kernel=3, left=20)
    model = SpeechModel(acoustic, flow, len(SYMBOLS), 2)
    own = [(r, Aligned(PHONES, DURATIONS)) for r in recordings()]
    return SpeechPart(model, own, others, ["S", "T"], "S", config, CPU, seed=1)


def test_a_part_of_an_utterance_is_whole_words_with_their_frames() -> None:
    frames = torch.arange(float(sum(DURATIONS)))[:, None]
    whole = Example(torch.tensor(PHONES), torch.tensor(DURATIONS), frames, 0)
    starts, ends = {0, 5, 9}, {5, 9, 13}
    for seed in range(30):
        part = shorten(whole, 120, random.Random(seed))
        assert len(part.frames) == int(part.durations.sum()) <= 120
        first = next(i for i in range(13) if PHONES[i : i + len(part.phones)] == part.phones.tolist())
        assert first in starts
        assert first + len(part.phones) in ends
        assert float(part.frames[0, 0]) == sum(DURATIONS[:first])


def test_what_is_short_may_stay_whole() -> None:
    whole = Example(torch.tensor(PHONES), torch.tensor(DURATIONS), torch.zeros(sum(DURATIONS), mel.WIDTH), 0)
    assert any(shorten(whole, 400, random.Random(seed)) is whole for seed in range(5))


def test_others_are_heard_at_the_beginning_alone() -> None:
    others = [(replace(r, speaker="T"), Aligned(PHONES, DURATIONS)) for r in recordings()] + [(recordings()[0], None)]
    part = make_part(replace(CONFIG, others_until=10), others)
    assert len(part.train) == 2
    assert {s for step in range(10) for s in part.batch(step).speaker.tolist()} == {0, 1}
    assert {s for step in range(10, 30) for s in part.batch(step).speaker.tolist()} == {0}


def test_both_models_learn_and_the_flow_joins_in_time() -> None:
    learner = Learner(make_part(), CONFIG.optimizer, CPU)
    losses = [learner.step() for _ in range(12)]
    assert "flow" not in losses[1]
    assert "flow" in losses[2]
    assert losses[-1]["mean"] < 0.7 * losses[0]["mean"]
    assert losses[-1]["duration"] < 0.7 * losses[0]["duration"]


def test_batches_belong_to_their_step_and_dev_stays_out() -> None:
    part = make_part()
    assert torch.equal(part.batch(5).frames, part.batch(5).frames)
    assert (len(part.train), len(part.dev)) == (2, 1)
    batch = part.batch(0)
    assert batch.frames.shape[:2] == (len(batch.phones), int(batch.durations.sum(1).max()))


def test_figures_of_dev_recordings() -> None:
    part = make_part()
    figures = part.measure(part.model.eval())
    assert set(figures) == {"mean mel", "flow mel", "pitch", "duration"}
    assert all(0 < value < 30 for value in figures.values())


def test_normalisation_comes_from_the_speaker() -> None:
    model = make_part().model
    assert isinstance(model, SpeechModel)
    assert torch.allclose(model.acoustic.mean[: mel.MELS], torch.linspace(-1, 1, mel.WIDTH)[: mel.MELS], atol=0.4)


def test_recordings_made_again_have_their_lengths() -> None:
    model = make_part().model
    assert isinstance(model, SpeechModel)
    aligned = [Aligned(PHONES, DURATIONS), None, Aligned(PHONES, DURATIONS)]
    made = remake(model.eval(), list(zip(recordings(), aligned, strict=True)), ["S"], 2)
    assert {path: tuple(frames.shape) for path, frames in made.items()} == {"0": (sum(DURATIONS), mel.WIDTH)}


def test_a_batch_is_padded_with_zeros() -> None:
    short = Example(torch.tensor([3]), torch.tensor([2]), torch.ones(2, mel.WIDTH), 1)
    long = Example(torch.tensor([3, 4]), torch.tensor([2, 3]), torch.ones(5, mel.WIDTH), 0)
    batch = collate([short, long], CPU)
    assert batch.counts.tolist() == [1, 2]
    assert batch.durations.tolist() == [[2, 0], [2, 3]]
    assert batch.frames.sum((1, 2)).tolist() == [2 * mel.WIDTH, 5 * mel.WIDTH]
    assert batch.speaker.tolist() == [1, 0]
    assert pytest.approx(0) == float(batch.frames[0, 2:].abs().sum())


def test_a_symbol_hardly_heard_is_said_like_the_one_most_like_it() -> None:
    heard = Aligned(encode(["AA1", "T", "."] * RARE + ["AA0", "?"] + ["OY2"] * 3), [1] * (3 * RARE + 5))
    found = stand_ins([heard, None])
    assert {decode([i])[0]: decode([like])[0] for i, like in found.items()} == {
        "?": ".", "!": ".", "AA0": "AA1", "AA2": "AA1",
    }  # fmt: skip
