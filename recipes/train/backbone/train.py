"""Train the backbone: a small decoder for dialogue with a learned sink token, from the corpora of a folder.

`vivavoce train backbone CONFIG.toml` reads text, trains on one CPU (float32) or one GPU (bf16), resumes from the last
checkpoint of its run folder, and exports a model that `vivavoce chat` loads.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.recipes.options import usable
from vivavoce.recipes.train.muon import optimizers
from vivavoce.recipes.train.precision import mixed
from vivavoce.recipes.train.resume import keep, resume
from vivavoce.speech.config import read_toml
from vivavoce.speech.llm.chat import ChatTemplate
from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.hub import save

from .data import END, TEMPLATE, DataConfig, TrainingData, tokenizer_texts, train_tokenizer


@dataclass(frozen=True)
class ModelConfig:
    """The decoder's shape; tokens: of the tokenizer, control tokens included."""

    tokens: int = 4096
    width: int = 192
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 48
    hidden: int = 512
    theta: float = 10000.0

    def decoder(self, vocabulary: int, ends: tuple[int, ...]) -> LlmConfig:
        return LlmConfig(vocabulary, self.width, self.layers, self.heads, self.kv_heads, self.head_dim, self.hidden,
                         theta=self.theta, qk_norm=True, tied=True, ends=ends)  # fmt: skip


@dataclass(frozen=True)
class OptimizerConfig:
    """steps: of the whole run; both rates (`matrices` by Muon, `rest` by AdamW: embeddings and norms) warm up linearly,
    hold, and fall linearly to 0 over the last `cooldown` steps."""

    steps: int = 4000
    matrices: float = 7e-3
    rest: float = 3e-3
    warmup: int = 100
    cooldown: int = 1000
    weight_decay: float = 0.02
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """What both rates are multiplied by for this step, counted from 0."""
        cool = max(0.0, (self.steps - step) / max(self.cooldown, 1))
        return min(1.0, (step + 1) / max(self.warmup, 1), cool)


@dataclass(frozen=True)
class TrainConfig:
    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 1
    save_minutes: float = 5.0
    measure_steps: int = 500


class Trainer:
    """The model with its optimisers; `state` and `load` make it resumable from any step."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.step_count = config, device, 0
        size = tokenizer.get_vocab_size()
        self.model = Decoder(config.model.decoder(size, (tokenizer.get_vocab()[END],))).to(device)
        for name, weight in self.model.named_parameters():
            if name.endswith(("attention.out.weight", "down.weight")):  # residual branches begin as nothing
                nn.init.zeros_(weight)
        o = config.optimizer
        self.optimizers = optimizers(self.model, self.model.parameters(), o.rest, weight_decay=o.weight_decay,
                                     inner=o.matrices)
        self.base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, rows: Tensor) -> float:
        """One update on rows (batch, n + 1); returns the loss in nats a token."""
        self.model.train()
        rate = self.config.optimizer.rate(self.step_count)
        for optimizer, base in zip(self.optimizers, self.base, strict=True):
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * rate
        loss = self.loss(rows.to(self.device))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step_count += 1
        return float(loss.detach())

    def loss(self, rows: Tensor) -> Tensor:
        """Nats a token, the sink not counted: nothing predicts it."""
        with mixed(self.device):
            logits = self.model.logits(self.model(rows[:, :-1]))
        return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())

    @torch.no_grad()
    def perplexity(self, rows: Tensor) -> float:
        self.model.eval()
        losses = [float(self.loss(part.to(self.device))) * len(part) for part in rows.split(8)]
        return math.exp(sum(losses) / len(rows))

    def state(self) -> dict[str, Any]:
        return {"step": self.step_count, "model": self.model.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers]}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.step_count = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)


class Run:
    """A trainer with its folder: tokenizer, log, checkpoints, export."""

    def __init__(self, config: TrainConfig, root: Path, folder: Path, device: torch.device) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer(root)
        self.trainer = Trainer(config, self.tokenizer, device)
        self.data = TrainingData(config.data, root, self.tokenizer, seed=config.seed, kept=folder / "tokens")
        self.held = self.data.held_out(rows=16)
        parameters = sum(p.numel() for p in self.trainer.model.parameters())
        self.log(f"{parameters / 1e6:.2f} M parameters; {self.data.summary}")
        self.checkpoint = folder / "last.pt"
        resume(self.checkpoint, device, self.trainer.load)
        self.stopping = False

    def _tokenizer(self, root: Path) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.exists():
            train_tokenizer(tokenizer_texts(root, self.config.data), self.config.model.tokens).save(str(path))
        return Tokenizer.from_file(str(path))

    def train(self, minutes: float = 0) -> None:
        """Until the last step, `minutes` have passed, or a signal asks to stop; always leaves a checkpoint."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        began = saved = time.monotonic()
        losses: list[float] = []
        tokens = 0
        while self.trainer.step_count < self.config.optimizer.steps:
            rows = self.data.batch(self.trainer.step_count)
            losses.append(self.trainer.step(rows))
            tokens += rows[:, 1:].numel()
            now = time.monotonic()
            if self.trainer.step_count % 50 == 0:
                self.log(f"loss {sum(losses) / len(losses):.3f}  {tokens / (now - began):,.0f} tokens/s")
                losses.clear()
            if self.trainer.step_count % self.config.measure_steps == 0:
                self.measure()
            if self.stopping or (minutes > 0 and now - began > minutes * 60):
                break
            if now - saved > self.config.save_minutes * 60:
                self.save()
                saved = now
        self.measure()
        self.save()

    def measure(self) -> None:
        """Held-out perplexity a token, by source."""
        found = {name: self.trainer.perplexity(rows) for name, rows in self.held.items()}
        self.log("held out: " + "  ".join(f"{name} {value:.1f}" for name, value in found.items()))

    def save(self) -> None:
        """The checkpoint, and the export in float16."""
        keep(self.trainer.state(), self.checkpoint)
        template = ChatTemplate(TEMPLATE)
        save(self.trainer.model, self.folder / "export", tokenizer=self.tokenizer, template=template, dtype="float16")

    def log(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} step {self.trainer.step_count}  {text}"
        print(line, flush=True)
        with (self.folder / "log.txt").open("a") as f:
            f.write(line + "\n")

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True


def read_config(path: Path) -> TrainConfig:
    """Raises BadConfig: unreadable, not TOML, unknown keys."""
    return read_toml(TrainConfig, path)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="vivavoce train backbone", description="Train a language model for dialogue; "
                                     "resumes by itself.")  # fmt: skip
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VIVAVOCE_DATA", ".")),
                        help="folder that holds text/ (default: $VIVAVOCE_DATA)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=None, help="run folder (default: runs/NAME)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long, with a checkpoint")
    parser.add_argument("--steps", type=int, default=0, help="another length than the configuration's: it cools down "
                        "before that one")  # fmt: skip
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(usable(args.device))
    config = read_config(args.config)
    if args.steps:
        config = replace(config, optimizer=replace(config.optimizer, steps=args.steps))
    Run(config, args.data, args.out or Path("runs") / config.name, device).train(args.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
