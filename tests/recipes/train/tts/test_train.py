"""The command trains every part, resumes, and leaves a voice that speaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch

from vivavoce.recipes.speak import load_voice
from vivavoce.recipes.train.tts import parts, train
from vivavoce.recipes.train.tts.align import Aligned
from vivavoce.recipes.train.tts.parts import TrainConfig
from vivavoce.recipes.train.tts.schedule import Learner, OptimizerConfig
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.tts.convert import Converter
from vivavoce.speech.tts.phones import encode
from vivavoce.speech.tts.synthesizer import Synthesizer
from vivavoce.speech.tts.token_voice import TokenVoice
from vivavoce.speech.tts.voice import Voice

PHONES = encode(["K", "AE1", "T", " ", "S", "AE1", "T", "."])


@pytest.fixture(autouse=True)
def aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tones are no words, so where they are is made up."""
    found = Aligned(PHONES, [5, 6, 7, 0, 6, 6, 7, 8])
    monkeypatch.setattr(parts, "align_all", lambda recordings, cache: [found] * len(recordings))


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second and more, which the toy corpus is too short for."""
    sound = 0.1 * torch.randn(16_400, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(parts, "listen", lambda folder, corpora: [("train", sound), ("dev", sound)])


def run(config: Path, data: Path, out: Path, *words: str) -> int:
    return train.main([str(config), "--data", str(data), "--out", str(out), "--device", "cpu", *words])


def test_every_part_trains_and_the_voice_speaks(
    config_file: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(config_file, data_folder, out, "--dtype", "float32") == 0
    assert "the voice is in" in capsys.readouterr().out
    voice = Voice.load(out / "export")
    assert voice.config.name == "tiny"
    assert len(voice.plan(PHONES).frames) > 0
    rough, polished = (torch.load(out / f"{name}.pt", weights_only=True) for name in ("vocoder", "polish"))
    for name, tensor in voice.vocoder.state_dict().items():
        assert torch.allclose(tensor, (rough[name] + polished[name]) / 2)
    log = (out / "log.txt").read_text()
    assert log.count("dev: ") >= 6
    converter = Converter.load(out / "convert")
    assert len(converter.convert(voice, torch.zeros(4000), steps=1, lookahead=0)) > 0
    speaking = load_voice(str(out / "token-voice"), "cpu")
    assert isinstance(speaking, TokenVoice)
    assert len(Synthesizer(speaking).speak("A cat sat.").pcm) > 0


def test_a_run_goes_on_from_its_checkpoint(config_file: Path, data_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(config_file, data_folder, out, "--part", "vocoder") == 0
    assert torch.load(out / "vocoder.last.pt", weights_only=True)["step"] == 3
    config_file.write_text(config_file.read_text().replace("optimizer = {steps = 3", "optimizer = {steps = 5", 1))
    assert run(config_file, data_folder, out, "--part", "vocoder") == 0
    assert torch.load(out / "vocoder.last.pt", weights_only=True)["step"] == 5
    assert not (out / "export").exists()  # a vocoder alone is no voice


def test_the_log_gives_means_of_the_steps_made_since_its_last_line(tmp_path: Path) -> None:
    class Resumed:
        device, step_count, config = torch.device("cpu"), 95, OptimizerConfig(steps=100)

        def step(self) -> dict[str, float]:
            self.step_count += 1
            return {"mean": 2.0} | ({"flow": 6.0} if self.step_count > 98 else {})

        def rate(self) -> float:
            return 1.0

        def load(self, state: object) -> None: ...

    config = TrainConfig("toy", ("a",), ("A",), "A", measure_steps=1000)
    resumed = train.Run("speech", cast(Learner, Resumed()), config, tmp_path)
    resumed.measure = resumed.save = lambda: None  # type: ignore[method-assign]
    resumed.train()
    assert "mean 2.0000  flow 6.0000" in (tmp_path / "log.txt").read_text()


def test_polishing_needs_something_to_polish(config_file: Path, data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="train the part speech first"):
        run(config_file, data_folder, tmp_path / "run", "--part", "polish")


def test_strangers_in_a_corpus_are_named(config_file: Path, data_folder: Path, tmp_path: Path) -> None:
    config_file.write_text(config_file.read_text().replace('["S"]', '["T"]').replace('speaker = "S"', 'speaker = "T"'))
    with pytest.raises(BadConfig, match="`speakers` lacks S"):
        run(config_file, data_folder, tmp_path / "run", "--part", "speech")


@pytest.mark.parametrize(("text", "error"), [("name = 3\n", "corpora|name"), ("wrong", "not TOML"),
                                             ('name = "x"\nextra = 1\n', "unknown key 'extra'")])
def test_configurations_that_are_wrong(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(BadConfig, match=error):
        train.read_config(path)
    with pytest.raises(BadConfig, match="cannot be read"):
        train.read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["lj-en", "lj-en-gpu"])
def test_the_shipped_configurations_are_valid_and_of_one_shape(name: str) -> None:
    folder = Path(train.__file__).parent
    config = train.read_config(folder / f"{name}.toml")
    shipped = folder.parents[2] / "speech" / "models" / "lj-en" / "config.json"
    if shipped.is_file():
        values = json.loads(shipped.read_text())
        assert values["speakers"] == list(config.speakers)
        assert values["flow"]["width"] == config.flow.width
