"""`vivavoce convert`: a file in, a file out, in blocks as at once; bad input leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_converter import make_converter
from small_voice import make_voice

from vivavoce.recipes import convert
from vivavoce.speech import audio
from vivavoce.speech.errors import BadAudio
from vivavoce.speech.tts.convert import Converter
from vivavoce.speech.tts.voice import Voice


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    make_voice().save(tmp_path / "voice")
    make_converter().save(tmp_path / "converter")
    return ["--voice", str(tmp_path / "voice"), "--converter", str(tmp_path / "converter"), "--steps", "1"]


def test_a_file_becomes_a_file_of_its_length(
    tmp_path: Path, folders: list[str], write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    samples = (0.1 * np.sin(np.arange(40_000) * 0.05)).astype(np.float32)
    out = tmp_path / "out.wav"
    assert convert.main([str(write("in.wav", samples)), "-o", str(out), *folders]) == 0
    assert "s made in" in capsys.readouterr().err
    assert abs(audio.info(out).seconds - 2.5) < 0.16
    assert audio.info(out).rate == 24_000


def test_blocks_make_what_the_whole_makes() -> None:
    converter, voice = make_converter(), make_voice()
    pcm = 0.1 * torch.randn(12_000, generator=torch.Generator().manual_seed(0))
    stage = converter.stage(voice, steps=1)
    parts = torch.cat(list(convert.convert(stage, iter(pcm.split(5000)), lookahead=1)))
    assert float((parts - converter.convert(voice, pcm, steps=1, lookahead=1)).abs().max()) < 1e-4


def test_steps_the_solver_cannot_take_are_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        convert.main(["in.wav", "-o", "out.wav", "--steps", "11"])
    assert ended.value.code == 2
    assert "--steps: 11 is not from 1 to 10" in capsys.readouterr().err


def test_what_ships_belongs_together_and_streams(tmp_path: Path, write: Callable[..., Path]) -> None:
    voice, converter = Voice.load(), Converter.load()
    assert converter.config.voice == voice.config.name
    seconds = np.arange(32_000) / 16_000
    samples = (0.1 * np.sin(900 * seconds) * (np.sin(15 * seconds) > 0)).astype(np.float32)
    out = tmp_path / "out.wav"
    assert convert.main([str(write("in.wav", samples)), "-o", str(out)]) == 0
    made = audio.read(out, 24_000)
    assert abs(len(made) / 24_000 - 2) < 0.16
    assert float(made.abs().max()) > 0.01
    pcm = torch.from_numpy(samples)
    parts = torch.cat(list(convert.convert(converter.stage(voice, steps=1), iter(pcm.split(3000)))))
    assert float((parts - converter.convert(voice, pcm, steps=1)).abs().max()) < 1e-4


def test_what_is_no_audio_leaves_no_file(tmp_path: Path, folders: list[str]) -> None:
    wrong = tmp_path / "in.wav"
    wrong.write_text("no audio")
    with pytest.raises(BadAudio):
        convert.main([str(wrong), "-o", str(tmp_path / "out.wav"), *folders])
    assert not (tmp_path / "out.wav").exists()


def test_an_unknown_ending_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as e:
        convert.main(["in.wav", "-o", str(tmp_path / "out.txt")])
    assert e.value.code == 2
