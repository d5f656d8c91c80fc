"""The options that commands share: what they take, what they refuse and with which words."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from vivavoce.recipes import options
from vivavoce.recipes.options import (
    Lookahead,
    add_hearing,
    add_model,
    count,
    load_model,
    lookahead,
    positive,
    recognizers,
    say,
    within,
)
from vivavoce.speech.checkpoint import load
from vivavoce.speech.errors import BadCheckpoint, MissingDevice
from vivavoce.speech.nn import packed
from vivavoce.speech.nn.packed import PackedLinear, supported


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model(parser)
    add_hearing(parser)
    parser.add_argument("--lookahead", type=lookahead)
    parser.add_argument("--count", type=count)
    parser.add_argument("--positive", type=positive)
    parser.add_argument("--within", type=within(0.5, 2.0))
    parser.add_argument("--whole", type=within(1, 10))
    return parser.parse_args(words)


@pytest.mark.parametrize(("text", "frames", "ms"), [("0", 0, 0), ("480", 6, 480), ("5520", 69, 5520),
                                                    ("offline", 69, 5520)])
def test_a_lookahead_is_given_in_ms_and_kept_in_frames(text: str, frames: int, ms: int) -> None:
    asked = parse("--lookahead", text).lookahead
    assert asked == Lookahead(frames, "")
    assert asked.ms == ms


def test_a_lookahead_between_two_rounds_down_with_a_note() -> None:
    asked = parse("--lookahead", "500").lookahead
    assert (asked.frames, asked.ms) == (6, 480)
    assert asked.note == "lookahead 500 ms is rounded down to 480 ms"


@pytest.mark.parametrize(("option", "text", "why"), [
    ("--lookahead", "5521", "0 to 5520"), ("--lookahead", "soon", "`offline` or a number of ms"),
    ("--count", "0", "0 is not 1 or more"), ("--count", "1.5", "invalid count value"),
    ("--positive", "0", "not a number above zero"), ("--positive", "-1", "not a number above zero"),
    ("--positive", "nan", "not a number above zero"), ("--positive", "inf", "not a number above zero"),
    ("--positive", "much", "invalid positive value"), ("--within", "2.1", "2.1 is not from 0.5 to 2.0"),
    ("--within", "nan", "nan is not from"), ("--whole", "11", "11 is not from 1 to 10"),
    ("--whole", "1.5", "invalid number value"), ("--hotwords", "@/nowhere", "cannot be read"),
    ("--device", "tpu", "cpu"),
])
def test_a_value_out_of_range_is_bad_usage_that_names_the_option(
        option: str, text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(f"{option}={text}")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert option in error
    assert why in error


def test_hot_words_come_between_commas_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("Zoë Quill\n\n Bo \n")
    assert parse("--hotwords", "Ann, Bo Diddley,").hotwords == ("Ann", "Bo Diddley")
    assert parse("--hotwords", f"@{tmp_path / 'names'}").hotwords == ("Zoë Quill", "Bo")
    assert parse().hotwords == ()
    assert parse().gate
    assert not parse("--no-gate").gate


def test_numbers_in_range_are_taken_as_they_are() -> None:
    args = parse("--count", "3", "--positive", "0.25")
    assert (args.count, args.positive) == (3, 0.25)


def test_the_model_and_device_have_defaults() -> None:
    args = parse()
    assert (args.model, args.device) == (options.MODEL, "auto")


def test_the_model_is_loaded_from_what_was_named(model_dir: Path) -> None:
    loaded = load_model(parse("--model", str(model_dir), "--device", "cpu"))
    assert loaded.source == model_dir
    assert {p.device.type for p in loaded.model.parameters()} == {"cpu"}
    assert not loaded.model.training


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(BadCheckpoint, match="no-such-model"):
        load_model(parse("--model", "no-such-model"))


def test_a_gpu_that_is_not_there_is_refused_when_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDevice, match="use --device cpu"):
        load_model(parse("--device", "cuda"))


@pytest.mark.parametrize(("device", "gpu", "chosen"), [
    ("auto", True, "cuda"), ("auto", False, "cpu"), ("cuda", True, "cuda"), ("cpu", True, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one_and_cpu_never_does(
        device: str, gpu: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(options, "load", lambda source, device: asked.append((source, device)))
    load_model(parse("--model", "m", "--device", device))
    assert asked == [("m", chosen)]


def test_what_is_said_goes_to_stderr_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("three files")
    assert capsys.readouterr() == ("", "vivavoce: three files\n")


def test_on_a_cpu_the_encoder_is_laid_out_for_it() -> None:
    plain, asked = load("small-en"), recognizers(parse("--device", "cpu"))(1)
    linears = [m for m in asked.model.encoder.modules() if isinstance(m, PackedLinear)]
    assert bool(linears) == ("fp32" in supported())
    pcm = torch.randn(16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    samples = torch.tensor([len(pcm)])
    with torch.no_grad():
        a, b = (x.model(pcm[None], samples)[0] for x in (plain, asked))
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("precision", supported())
def test_a_recogniser_runs_at_any_precision(precision: str) -> None:
    recognizer = recognizers(parse("--device", "cpu", "--precision", precision))(1)
    assert recognizer.transcribe(torch.zeros(16_000)).text == ""


def test_a_precision_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "supported", lambda: ["fp32"])
    with pytest.raises(MissingDevice, match="cannot run int8 linears on this CPU; use fp32"):
        recognizers(parse("--device", "cpu", "--precision", "int8"))
