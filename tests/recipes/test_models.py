"""Listing, inspecting and converting models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vivavoce.recipes import cli, models
from vivavoce.speech import checkpoint
from vivavoce.speech.checkpoint import Info
from vivavoce.speech.llm import hub


def test_info_says_what_a_model_is_and_shows_its_card(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["info", str(model_dir)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    size = (model_dir / "model.safetensors").stat().st_size
    assert rows["name"] == "tiny"
    assert rows["size"] == f"{size / 1e6:.1f} MB"
    assert rows["decoders"] == "ctc"
    assert rows["lookahead"] == "0, 80, 480, 1040, 5520 ms"
    card = models.describe(Info("a", model_dir, 1, 1, (), ("tdt",), "# Card\nread me\n"))
    assert card.endswith("\n\n# Card\nread me")
    assert "whole utterances only" in card


def test_list_has_a_line_a_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [info.name for info in checkpoint.models()] + [folder.name for folder in models.others()]
    assert [line.split()[0] for line in lines] == (names or ["no"])


def test_models_that_recognise_nothing_are_told_by_their_cards(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in models.others():
        assert models.main(["info", folder.name]) == 0
        assert (folder / "README.md").read_text().strip() in capsys.readouterr().out
    assert {folder.name for folder in models.others()} >= {"chat-en", "lj-en", "lj-en-convert", "punctuation-en"}


def test_a_converted_model_says_the_same(model_dir: Path, tmp_path: Path) -> None:
    assert models.main(["convert", str(model_dir), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    before, after = checkpoint.load(model_dir), checkpoint.load(tmp_path / "half")
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.7 * (
        model_dir / "model.safetensors"
    ).stat().st_size
    pairs = zip(before.model.parameters(), after.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_converted_language_model_says_the_same(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint.locate("chat-en", (hub.MODEL_TYPE,))
    assert models.main(["convert", str(source), str(tmp_path / "small"), "--dtype", dtype]) == 0
    assert capsys.readouterr().out.startswith("name        small\nsize        2.4 M")
    before, after = hub.load(source), hub.load(tmp_path / "small")
    assert after.template == before.template
    assert (tmp_path / "small" / "replies.jsonl.xz").read_bytes() == (source / "replies.jsonl.xz").read_bytes()
    tokens = torch.arange(100, 140)[None]
    with torch.no_grad():
        a, b = (m.decoder.logits(m.decoder(tokens)) for m in (before, after))
    assert (a - b).abs().max() <= (0.05 if dtype == "int8" else 1e-3) * a.abs().max()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert"}, "bert"),
        ({"model_type": "vivavoce_asr", "wdith": 3}, "wdith"),
        ({}, "model_type"),
        (None, "config.json"),
    ],
)
def test_a_folder_that_is_no_recogniser_is_named_with_its_fault(
    config: dict[str, object] | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert cli.main(["models", "info", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"vivavoce: {tmp_path}")
    assert said in error


def test_an_average_is_the_mean_of_each_weight_and_other_shapes_are_refused(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = checkpoint.load(model_dir)
    first = [p.detach().clone() for p in loaded.model.parameters()]
    with torch.no_grad():
        for p in loaded.model.parameters():
            p.add_(torch.ones_like(p), alpha=0.3)
    checkpoint.save(loaded.model, loaded.tokenizer, tmp_path / "other")
    sources = [str(model_dir), str(tmp_path / "other"), str(tmp_path / "other")]
    assert models.main(["average", str(tmp_path / "mean"), *sources]) == 0
    mean = checkpoint.load(tmp_path / "mean").model.parameters()
    assert all(torch.allclose(m, a + 0.2, atol=1e-6) for m, a in zip(mean, first, strict=True))
    assert cli.main(["models", "average", str(tmp_path / "bad"), str(model_dir), "small-en"]) == 1
    assert "small-en: not of the shape" in capsys.readouterr().err


BAD = [[], ["info"], ["average", "a"], ["convert", "a"], ["convert", "a", "b", "--dtype", "int3"]]


@pytest.mark.parametrize("argv", BAD)
def test_bad_usage_exits_with_2(argv: list[str]) -> None:
    assert cli.main(["models", *argv]) == 2
