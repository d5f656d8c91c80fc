"""Train a voice: the vocoder, the acoustic model with its flow, the vocoder again on what those make; then write the
folder that `speak` loads.

`vivavoce train tts CONFIG.toml` reads recordings with their text, finds out which sound is where, trains each part on
one CPU or one GPU (bf16), and resumes each from its last checkpoint. The first two parts do not need each other: with
`--part` they can train side by side. Whatever is there is exported.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, get_args

import torch

from vivavoce.speech.config import parse
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.tts.config import AcousticConfig, FlowConfig, VocoderConfig, VoiceConfig
from vivavoce.speech.tts.phones import SYMBOLS
from vivavoce.speech.tts.vocoder import Vocoder
from vivavoce.speech.tts.voice import Voice
from vivavoce.speech.weights import Precision

from .align import Aligned, align_all
from .data import Recording, gather
from .schedule import Learner
from .sound import SoundConfig, SoundPart
from .speech import SpeechConfig, SpeechModel, SpeechPart, remake

PartName = Literal["vocoder", "speech", "polish"]
PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class TrainConfig:
    """One run. corpora: folders under the data folder's `speech/`, aligned with their text; sound: for the vocoder
    alone, more of them; speakers: whose voices these are, `speaker` the one that is exported."""

    name: str
    corpora: tuple[str, ...]
    speakers: tuple[str, ...]
    speaker: str
    sound: tuple[str, ...] = ()
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    acoustic: AcousticConfig = field(default_factory=AcousticConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    vocoder_training: SoundConfig = field(default_factory=SoundConfig)
    speech_training: SpeechConfig = field(default_factory=SpeechConfig)
    polish_training: SoundConfig = field(default_factory=SoundConfig)
    seed: int = 1
    save_minutes: float = 4.0
    measure_steps: int = 400


class Run:
    """One part's learner with its folder: log, checkpoints, averaged weights."""

    def __init__(self, name: PartName, learner: Learner, config: TrainConfig, folder: Path) -> None:
        self.name, self.learner, self.config, self.folder = name, learner, config, folder
        self.checkpoint = folder / f"{name}.last.pt"
        if self.checkpoint.exists():
            learner.load(torch.load(self.checkpoint, map_location=learner.device, weights_only=True))
        self.stopping = False

    def train(self, minutes: float = 0) -> None:
        """Until the last step, `minutes` have passed, or a signal asks to stop; always leaves a checkpoint."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        began = saved = time.monotonic()
        sums: dict[str, float] = {}
        steps = self.learner.config.steps
        while self.learner.step_count < steps and not self.stopping:
            for name, value in self.learner.step().items():
                sums[name] = sums.get(name, 0.0) + value
            count, now = self.learner.step_count, time.monotonic()
            if count % 50 == 0:
                self.log("  ".join(f"{name} {value / 50:.4f}" for name, value in sums.items())
                         + f"  lr {self.learner.rate():.1e}  {(now - began) / 60:.1f} min")
                sums.clear()
            if count % self.config.measure_steps == 0 or count == steps:
                self.measure()
            if minutes > 0 and now - began > minutes * 60:
                break
            if now - saved > self.config.save_minutes * 60:
                self.save()
                saved = time.monotonic()
        self.save()

    def measure(self) -> None:
        model = self.learner.part.model
        kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.learner.averaged())
        model.eval()
        figures = self.learner.part.measure(model)
        model.load_state_dict(kept)
        self.log("dev: " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))

    def save(self) -> None:
        """Atomic, so that a cut never leaves half a checkpoint."""
        for state, path in ((self.learner.state(), self.checkpoint),
                            (self.learner.averaged(), self.folder / f"{self.name}.pt")):
            part = path.with_suffix(".part")
            torch.save(state, part)
            part.replace(path)

    def log(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {self.name} {self.learner.step_count}  {text}"
        print(line, flush=True)
        with (self.folder / "log.txt").open("a") as f:
            f.write(line + "\n")

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True


def learner(name: PartName, config: TrainConfig, root: Path, folder: Path, device: torch.device) -> Learner:
    """The part at its first step. Raises BadManifest, BadAudio, BadConfig, MissingDependency."""
    torch.manual_seed(config.seed)
    speech, cache = root / "speech", folder / "cache"
    if name == "vocoder":
        heard = gather(speech, [*config.corpora, *config.sound], cache)
        sound = SoundPart(Vocoder(config.vocoder), heard, config.vocoder_training, device, config.seed)
        return Learner(sound, config.vocoder_training.optimizer, device)
    recordings: list[Recording] = []
    aligned: list[Aligned | None] = []
    for corpus in config.corpora:
        recordings += (found := gather(speech, [corpus], cache))
        aligned += align_all(found, cache / f"{corpus}.json")
    strangers = {r.speaker for r in recordings} - set(config.speakers)
    if strangers:
        raise BadConfig(f"{config.name}: `speakers` lacks {', '.join(sorted(strangers))}, who speak in its corpora")
    model = SpeechModel(config.acoustic, config.flow, len(SYMBOLS), len(config.speakers))
    if name == "polish":
        model.load_state_dict(weights(folder, "speech"))
        vocoder = Vocoder(config.vocoder)
        vocoder.load_state_dict(weights(folder, "vocoder"))
        made = remake(model.eval().to(device), recordings, aligned, config.speakers)
        sound = SoundPart(vocoder, recordings, config.polish_training, device, config.seed + 1, made)
        return Learner(sound, config.polish_training.optimizer, device)
    part = SpeechPart(model, recordings, aligned, config.speakers, config.speaker, config.speech_training, device,
                      config.seed)
    return Learner(part, config.speech_training.optimizer, device)


def weights(folder: Path, name: PartName) -> dict[str, torch.Tensor]:
    """A part's averaged weights. Raises BadConfig before it has any."""
    path = folder / f"{name}.pt"
    if not path.is_file():
        raise BadConfig(f"{path}: not there yet; train the part {name} first")
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def export(config: TrainConfig, folder: Path, dtype: Precision) -> Path | None:
    """Write the voice once both parts have averaged weights; returns its folder."""
    vocoder: PartName = "polish" if (folder / "polish.pt").is_file() else "vocoder"
    if not (folder / "speech.pt").is_file() or not (folder / f"{vocoder}.pt").is_file():
        return None
    tensors = weights(folder, "speech") | {f"vocoder.{k}": t for k, t in weights(folder, vocoder).items()}
    voice = Voice(VoiceConfig(config.name, len(SYMBOLS), config.speakers, config.speaker, config.acoustic, config.flow,
                              config.vocoder))
    voice.load_state_dict(tensors)
    voice.save(folder / "export", dtype=dtype)
    return folder / "export"


def read_config(path: Path) -> TrainConfig:
    """Raises BadConfig: unreadable, not TOML, unknown keys."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as e:
        raise BadConfig(f"{path}: cannot be read ({e.strerror}); give a TOML file like lj-en.toml") from e
    except tomllib.TOMLDecodeError as e:
        raise BadConfig(f"{path}: not TOML ({e})") from e
    return parse(TrainConfig, values, str(path))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="vivavoce train tts", description="Train a voice.")
    parser.add_argument("config", type=Path, help="a TOML file; lj-en.toml beside this module is the shipped voice's")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with speech/ (default: data)")
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME); an interrupted run resumes")
    parser.add_argument("--part", choices=PARTS, action="append", help="train only this part (default: each in turn)")
    parser.add_argument("--minutes", type=float, default=0, help="stop each part after this long (default: at its end)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default="int8", choices=get_args(Precision), help="of the exported weights")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    config = read_config(args.config)
    folder = args.out or Path("runs") / config.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.part or PARTS:
        run = Run(name, learner(name, config, args.data, folder, device), config, folder)
        run.train(args.minutes)
        if run.stopping:
            break
    if done := export(config, folder, args.dtype):
        print(f"the voice is in {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
