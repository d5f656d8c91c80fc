"""Training the backbone: it learns, it resumes from any step exactly, and what it exports talks."""

from __future__ import annotations

import dataclasses
import json
import lzma
from pathlib import Path

import pytest
import torch

from vivavoce.recipes.train.backbone.data import DataConfig
from vivavoce.recipes.train.backbone.train import ModelConfig, OptimizerConfig, Run, TrainConfig, main, read_config
from vivavoce.speech.errors import BadCheckpoint, BadConfig, MissingDevice
from vivavoce.speech.llm.assistant import Assistant
from vivavoce.speech.llm.hub import load
from vivavoce.speech.llm.sampling import Sampling

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[4] / "recipes" / "train" / "backbone"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    (root / "text").mkdir()
    talk = [("Ping?", "Pong."), ("Tick?", "Tock.")]
    turns = [[{"role": "user", "text": a}, {"role": "assistant", "text": b}] for a, b in talk * 150]
    with lzma.open(root / "text" / "talks.jsonl.xz", "wt") as f:
        f.writelines(json.dumps({"turns": t}) + "\n" for t in turns)
    return root


def config(steps: int = 6) -> TrainConfig:
    return TrainConfig(
        "tiny",
        ModelConfig(tokens=300, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, hidden=24),
        DataConfig(shares={"talks": 1.0}, length=32, batch=4, heard=0.0),
        OptimizerConfig(steps=steps, matrices=0.02, warmup=2, cooldown=2),
        measure_steps=1000,
    )


def test_a_run_cut_short_resumes_to_the_same_weights(root: Path) -> None:
    whole = Run(config(), root, root / "whole", CPU)
    whole.train()
    first = Run(config(), root, root / "cut", CPU)
    for step in range(3):
        first.trainer.step(first.data.batch(step))
    first.save()
    second = Run(config(), root, root / "cut", CPU)
    assert second.trainer.step_count == 3
    second.train()
    assert second.trainer.step_count == whole.trainer.step_count == 6
    for (name, a), b in zip(whole.trainer.model.state_dict().items(), second.trainer.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_it_learns_to_answer_and_the_export_talks(root: Path) -> None:
    run = Run(config(steps=120), root, root / "learns", CPU)
    run.train()
    assert "held out: talks" in (root / "learns" / "log.txt").read_text()
    assistant = Assistant(load(root / "learns" / "export"), slots=1, sampling=Sampling())
    conversation = assistant.open()
    for text, answer in (("Ping?", "Pong."), ("Tick?", "Tock.")):
        assistant.reply(conversation, text, max_tokens=8)
        said = ""
        while not assistant.idle:
            said += "".join(piece.text for piece in assistant.step())
        assert said == answer


def test_the_rate_warms_up_holds_and_falls_to_nothing() -> None:
    o = OptimizerConfig(steps=100, warmup=10, cooldown=50)
    assert [o.rate(s) for s in (0, 9, 40, 50, 75, 100)] == [0.1, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_another_length_cools_down_before_it(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(
        'name = "tiny"\n'
        "model = {tokens = 300, width = 8, layers = 1, heads = 1, kv_heads = 1, head_dim = 8, hidden = 8}\n"
        "data = {length = 8, batch = 1, shares = {talks = 1.0}}\noptimizer = {steps = 100}\n"
    )
    words = [str(file), "--data", str(root), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*words, "--steps", "3"]) == 0
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 3
    assert main([*words, "--minutes", "1e-9"]) == 0  # over before the first step ends, on any machine
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 4
    file.write_text(file.read_text().replace("hidden = 8", "hidden = 16"))
    with pytest.raises(BadCheckpoint, match="of another configuration; remove it to begin anew"):
        main([*words, "--steps", "3"])
    (tmp_path / "run" / "last.pt").write_bytes(b"PK")
    with pytest.raises(BadCheckpoint, match=r"last\.pt: damaged"):
        main([*words, "--steps", "3"])


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDevice, match="no usable GPU"):
        main(["a.toml", "--device", "cuda"])


@pytest.mark.parametrize("name", [p.name for p in sorted(CONFIGS.glob("*.toml")) if p.name != "small_talk.toml"])
def test_shipped_configurations_are_read_and_within_bounds(name: str) -> None:
    c = read_config(CONFIGS / name)
    m = c.model
    layer = m.width * m.head_dim * (2 * m.heads + 2 * m.kv_heads) + 3 * m.width * m.hidden
    assert m.tokens * m.width + m.layers * layer <= 13e6
    assert abs(sum(c.data.shares.values()) - 1) < 1e-6


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "x"\nsize = 3\n')
    with pytest.raises(BadConfig, match="size"):
        read_config(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text("name = ")
    with pytest.raises(BadConfig, match="not TOML"):
        read_config(tmp_path / "b.toml")
    with pytest.raises(BadConfig, match="cannot be read"):
        read_config(tmp_path / "c.toml")
    assert dataclasses.replace(config(), seed=2).seed == 2
