"""Train a voice: vocoder, acoustic model and flow, the vocoder again on what those make, and the token path.

`vivavoce train tts CONFIG.toml` reads recordings with their text, finds out which sound is where, trains each part in
turn on one CPU or one GPU (bf16), and resumes each from its last checkpoint. With `--part`, parts that do not need each
other can train side by side. Whatever is complete is exported: voices for `speak`, a converter for `convert`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import get_args

import torch

from vivavoce.recipes.options import usable
from vivavoce.recipes.train.resume import keep, resume
from vivavoce.speech.config import read_toml
from vivavoce.speech.weights import Precision

from .parts import PARTS, PartName, TrainConfig, export_converter, export_token_voice, export_voice, learner
from .schedule import Learner


class Run:
    """One part's learner with its folder: log, checkpoints, averaged weights."""

    def __init__(self, name: PartName, learner: Learner, config: TrainConfig, folder: Path) -> None:
        self.name, self.learner, self.config, self.folder = name, learner, config, folder
        self.checkpoint = folder / f"{name}.last.pt"
        resume(self.checkpoint, learner.device, learner.load)
        self.stopping = False

    def train(self, minutes: float = 0) -> None:
        """Until the last step, `minutes` have passed, or a signal asks to stop; always leaves a checkpoint."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        began = saved = time.monotonic()
        seen: dict[str, list[float]] = {}  # since the last line of the log
        steps = self.learner.config.steps
        while self.learner.step_count < steps and not self.stopping:
            for name, value in self.learner.step().items():
                seen.setdefault(name, []).append(value)
            count, now = self.learner.step_count, time.monotonic()
            if count % 50 == 0:
                self.log("  ".join(f"{name} {fmean(values):.4f}" for name, values in seen.items())
                         + f"  lr {self.learner.rate():.1e}  {(now - began) / 60:.1f} min")
                seen.clear()
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
        keep(self.learner.state(), self.checkpoint)
        keep(self.learner.averaged(), self.folder / f"{self.name}.pt")

    def log(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {self.name} {self.learner.step_count}  {text}"
        print(line, flush=True)
        with (self.folder / "log.txt").open("a") as f:
            f.write(line + "\n")

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True


def read_config(path: Path) -> TrainConfig:
    """Raises BadConfig: unreadable, not TOML, unknown keys."""
    return read_toml(TrainConfig, path)


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
    device = torch.device(usable(args.device))
    config = read_config(args.config)
    folder = args.out or Path("runs") / config.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.part or PARTS:
        run = Run(name, learner(name, config, args.data, folder, device), config, folder)
        run.train(args.minutes)
        if run.stopping:
            break
    if done := export_voice(config, folder, args.dtype):
        print(f"the voice is in {done}")
    if done := export_converter(config, folder, args.dtype):
        print(f"the converter is in {done}")
    if done := export_token_voice(config, folder, args.dtype):
        print(f"the voice of tokens is in {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
