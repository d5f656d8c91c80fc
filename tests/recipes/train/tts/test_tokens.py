"""Training of the token path: the recogniser stays as it is, the quantiser and the planner learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vivavoce.recipes.train.tts.data import gather
from vivavoce.recipes.train.tts.schedule import Learner, OptimizerConfig
from vivavoce.recipes.train.tts.tokens import (
    PlannerPart,
    PlannerTraining,
    TokensConfig,
    TokensPart,
    cut,
    frames_of,
    listen,
)
from vivavoce.speech.asr.model import AsrConfig, AsrModel
from vivavoce.speech.nn.encoder import EncoderConfig
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.config import FlowConfig
from vivavoce.speech.tts.flow import Flow
from vivavoce.speech.tts.planner import Planner, PlannerConfig

CPU = torch.device("cpu")
OPTIMIZER = OptimizerConfig(rate=1e-2, steps=30, warmup=1, cooldown=0.1)
CONFIG = TokensConfig(layers=1, levels=(4, 3), seconds=1.0, lookaheads=(1, 6), optimizer=OPTIMIZER)


def make_recogniser() -> AsrModel:
    torch.manual_seed(0)
    encoder = EncoderConfig(width=16, layers=3, heads=2, hidden=24, channels=8, left_context=20, dropout=0.0)
    return AsrModel(AsrConfig("tiny", encoder, 8)).eval()


def test_a_tokenizer_is_a_copy_of_the_lower_layers() -> None:
    recogniser = make_recogniser()
    tokenizer = cut(recogniser, 1, (4, 3))
    assert len(tokenizer.encoder.layers) == 1
    for name, tensor in tokenizer.encoder.state_dict().items():
        assert torch.equal(tensor, recogniser.encoder.state_dict()[name])
    assert not any(p.requires_grad for p in tokenizer.encoder.parameters())
    assert all(p.requires_grad for p in tokenizer.quantiser.parameters())


@pytest.mark.parametrize("tap", [False, True])
def test_the_quantiser_learns_and_the_recogniser_does_not(data_folder: Path, tap: bool) -> None:
    recogniser = make_recogniser()
    before = {name: t.clone() for name, t in recogniser.state_dict().items()}
    heard = [(split, pcm) for split, pcm in listen(data_folder / "speech", ["one"])]
    assert heard == []  # shorter than a second
    heard = [("train", torch.randn(20_000)), ("dev", torch.randn(17_000))]
    config = replace(CONFIG, tap=tap)
    part = TokensPart(cut(recogniser, 1, (4, 3), tap=tap).quantiser, recogniser, heard, config, CPU, seed=1)
    learner = Learner(part, OPTIMIZER, CPU)
    losses = [learner.step() for _ in range(6)]
    assert losses[-1]["words"] < losses[0]["words"]
    assert all(torch.equal(t, before[name]) for name, t in recogniser.state_dict().items())
    figures = part.measure(part.model)
    assert 0 <= figures["pieces kept"] <= 1
    assert 0 < figures["codes used"] <= 1


@pytest.mark.parametrize("tap", [False, True])
def test_the_planner_learns_and_the_flow_does_not(data_folder: Path, tmp_path: Path, tap: bool) -> None:
    recordings = gather(data_folder / "speech", ["one"], tmp_path / "cache")
    tokenizer = cut(make_recogniser(), 1, (4, 3), tap=tap).eval()
    each = frames_of(tokenizer)
    assert each == (2 if tap else 4)
    planner = Planner(PlannerConfig((4, 3), tokenizer.fingerprint(), 4, width=16, hidden=24, layers=1, kernel=3,
                                    frames=each))  # fmt: skip
    flow = Flow(FlowConfig(width=16, hidden=24, heads=2, layers=1, kernel=3, left=10), planner.width)
    torch.nn.init.normal_(flow.out.weight, std=0.1)
    before = flow.out.weight.clone()
    normalise = torch.full((mel.WIDTH,), -3.0), torch.full((mel.WIDTH,), 2.0)
    others = [replace(r, speaker=name) for r in recordings[:2] for name in ("T", "U")]
    config = PlannerTraining(frames=60, others_until=10, optimizer=OPTIMIZER)
    part = PlannerPart(planner, flow, normalise, recordings, others, tokenizer, config, CPU, seed=1)
    assert all(len(p.frames) == each * len(p.tokens) for p in part.everybody + part.dev)
    assert {p.who for p in part.everybody} == {0, 1, 2}
    learner = Learner(part, OPTIMIZER, CPU)
    losses = [learner.step() for _ in range(15)]
    assert losses[-1]["mean"] < 0.8 * losses[0]["mean"]
    vectors = learner.averaged()["others.weight"]
    assert not vectors[0].any()
    assert vectors[1:].any(1).all()
    assert torch.equal(flow.out.weight, before)
    assert 0 < part.measure(part.model)["mean mel"] < 10
