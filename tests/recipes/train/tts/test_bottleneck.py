"""What tokens keep: the recogniser hears through them only while it is asked to, and every way has its row."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from babble import noise, save_babbler
from small_voice import make_voice

from vivavoce.recipes.data import manifest
from vivavoce.recipes.train.tts import bottleneck
from vivavoce.recipes.train.tts.tokens import cut
from vivavoce.speech import checkpoint
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.tts.convert import Converter, ConverterConfig
from vivavoce.speech.tts.planner import PlannerConfig
from vivavoce.speech.tts.tokens import RATE


@pytest.fixture
def recogniser(tmp_path: Path) -> Path:
    save_babbler(tmp_path / "recogniser")
    return tmp_path / "recogniser"


def make_converter(recogniser: Path) -> Converter:
    tokenizer = cut(checkpoint.load(recogniser).model, 1, (4, 3)).eval().requires_grad_(False)
    planner = PlannerConfig((4, 3), tokenizer.fingerprint(), 4, width=16, hidden=24, layers=1, kernel=3)
    made = Converter(ConverterConfig("tiny-convert", "small", tokenizer.config, planner)).eval().requires_grad_(False)
    made.tokenizer = tokenizer
    return made


def test_tokens_are_heard_through_only_while_asked_for(recogniser: Path) -> None:
    model, converter = checkpoint.load(recogniser).model, make_converter(recogniser)
    pcm = torch.from_numpy(noise(2.0))[None]
    count = torch.tensor([pcm.shape[1]])
    plain = model(pcm, count, 1)[0]
    with bottleneck.through(model, converter.tokenizer):
        squeezed = model(pcm, count, 1)[0]
    assert not torch.allclose(squeezed, plain)
    assert torch.equal(model(pcm, count, 1)[0], plain)
    for shape in ((3, 3), converter.tokenizer.encoder.subsampling.out.weight.shape):
        converter.tokenizer.encoder.subsampling.out.weight = torch.nn.Parameter(torch.zeros(shape))
        with pytest.raises(BadCheckpoint, match="another recogniser"), bottleneck.through(model, converter.tokenizer):
            pass


def test_codes_are_counted(recogniser: Path) -> None:
    tokenizer = make_converter(recogniser).tokenizer
    many, used, alike = bottleneck.codes(tokenizer, [("", torch.from_numpy(noise(2.0)))] * 2)
    assert many == 2 * 26
    assert 1 <= alike <= used <= 12


def test_the_command_prints_a_row_for_each_way(
    recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_converter(recogniser).save(tmp_path / "converter")
    make_voice().save(tmp_path / "voice")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    soundfile.write(corpus / "a.wav", noise(1.0), RATE)
    utterance = manifest.Utterance(corpus / "a.wav", 1.0, RATE, "S", "dev", "a cat")
    manifest.write(corpus / manifest.NAME, [utterance, utterance])
    monkeypatch.setattr(bottleneck, "hear", lambda pcm: "a cat" if len(pcm) > 20_000 else "")
    assert bottleneck.main([str(tmp_path / "converter"), "--voice", str(tmp_path / "voice"), "--model",
                            str(recogniser), "--corpus", str(corpus), "--steps", "1"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "corpus, 2 dev recordings" in out
    assert "through the tokens" in out
    assert "| pocketsphinx, converted in 1 step | 0.0 (0.0–0.0) | 0.0 |" in out
    assert "| pocketsphinx | 0.0 (0.0–0.0) | 0.0 |" in out
    assert "of 12 codes in use" in out
    assert bottleneck.main([str(tmp_path / "converter"), "--voice", str(tmp_path / "voice"), "--model",
                            str(recogniser), "--corpus", str(corpus), "--inside"]) == 0  # fmt: skip
    assert "pocketsphinx" not in capsys.readouterr().out
