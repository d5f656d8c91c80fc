"""Train a recogniser: hybrid CTC and transducer, the lookahead drawn at random for every batch.

`vivavoce train asr CONFIG.toml` reads manifests, trains on one CPU, one GPU (bf16) or many (torchrun), and resumes from
the last checkpoint of its run folder. What it exports is the average of the weights along the way.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.recipes.data.augment import SpecAugment
from vivavoce.recipes.data.batches import Batch
from vivavoce.recipes.data.timed import TimedSpeech
from vivavoce.recipes.data.tokenizer import read_tokenizer
from vivavoce.recipes.options import usable
from vivavoce.recipes.train.muon import optimizers
from vivavoce.recipes.train.precision import mixed
from vivavoce.recipes.train.resume import keep, resume
from vivavoce.speech.asr.ctc import CtcHead
from vivavoce.speech.asr.model import AsrConfig, AsrModel, TransducerConfig
from vivavoce.speech.asr.phones import LABELS_A_FRAME
from vivavoce.speech.checkpoint import load, save
from vivavoce.speech.config import read_toml
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.nn.encoder import EncoderConfig
from vivavoce.streaming.buffers import count_mask

from .data import DataConfig, TrainingData
from .measure import error_rates
from .meter import Meter
from .word_errors import WordErrors, WordErrorsConfig

LOOKAHEADS = (0, 1, 6, 13, 69)


@dataclass(frozen=True)
class OptimizerConfig:
    """steps: length of the whole run; the rate warms up linearly, holds, and falls linearly to 0 over the last
    `cooldown` share. average: decay of the moving average of the weights that is exported. muon: the matrices of the
    encoder's layers are updated by Muon, all else by AdamW as ever."""

    rate: float = 1.5e-3
    steps: int = 10_000
    warmup: int = 500
    cooldown: float = 0.3
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.999
    muon: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """One run. start: a model (a shipped name, a folder) whose weights, shape and tokenizer to go on from; encoder then
    stays unset; with a tokenizer of its own the run keeps that model's encoder and begins new heads; dropout: in its
    layers, its own if not given. transducer: train one beside CTC, whose share of the loss is then ctc_weight.
    between: after which layer a second CTC loss sits (arXiv 2102.03216), -1 for none; its share of the loss is
    between_weight. timed: for so many steps at the beginning the data is synthetic speech with known phone times, in
    batches of timed_seconds (see recipes/data/timed.py). phones_weight: of naming the phone of every 40 ms beside the
    other losses, where phones are known: in timed speech, and in recordings that were aligned (`phones` in [data]).
    consistency: weight of the difference between what CTC hears in two maskings of every utterance (CR-CTC, arXiv
    2410.05101; 0.2 there), 0 for one masking as usual; a step then computes twice as much. word_errors: what the beam
    would get wrong beside the other losses, for the last part of a training, see word_errors.py. bfloat16: what to
    compute in, see precision.py; by itself on a GPU alone."""

    name: str
    data: DataConfig
    start: str = ""
    tokenizer: str = ""
    encoder: EncoderConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    spec_augment: SpecAugment = field(default_factory=SpecAugment)
    lookaheads: tuple[int, ...] = LOOKAHEADS
    transducer: TransducerConfig | None = None
    dropout: float | None = None
    ctc_weight: float = 0.3
    between: int = -1
    between_weight: float = 0.3
    consistency: float = 0.0
    word_errors: WordErrorsConfig | None = None
    bfloat16: bool | None = None
    phones_weight: float = 4.0
    timed: int = 0
    timed_seconds: float = 24.0
    seed: int = 1
    save_minutes: float = 5.0
    measure_steps: int = 1000

    def __post_init__(self) -> None:
        if self.start and self.encoder:
            raise BadConfig(f"{self.name}: a model to go on from (`start`) has its own [encoder]")
        if not self.start and not (self.tokenizer and self.encoder):
            raise BadConfig(f"{self.name}: give either `start`, a model to go on from, or `tokenizer` and [encoder]")
        if self.dropout is not None and self.encoder:
            raise BadConfig(f"{self.name}: `dropout` goes with `start`; of a new model it belongs in [encoder]")

    @property
    def knows_phones(self) -> bool:
        """Whether any of the data has its phones, for a layer to learn to name them."""
        return self.phones_weight > 0 and bool(self.timed or self.data.phones)

    def begin(self, root: Path) -> tuple[AsrModel, Tokenizer]:
        """The model before its first step. Raises what reading `start` or the tokenizer raises."""
        own = read_tokenizer(root / self.tokenizer) if self.tokenizer else None
        if not self.start:
            assert self.encoder is not None
            assert own is not None
            return AsrModel(AsrConfig(self.name, self.encoder, own.get_vocab_size(), transducer=self.transducer,
                                      lookaheads=self.lookaheads, phones=self.knows_phones)), own
        loaded = load(self.start)
        if self.transducer and loaded.model.transducer:
            raise BadConfig(f"{self.name}: {self.start} has its own [transducer]")
        config = dataclasses.replace(loaded.model.config, name=self.name, lookaheads=self.lookaheads,
                                     phones=self.knows_phones,
                                     transducer=self.transducer or loaded.model.config.transducer)
        if self.dropout is not None:
            config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, dropout=self.dropout))
        if own is None:
            model = AsrModel(config)
            mine = model.state_dict()
            model.load_state_dict({**mine, **{k: v for k, v in loaded.model.state_dict().items() if k in mine}})
            return model, loaded.tokenizer
        model = AsrModel(dataclasses.replace(config, pieces=own.get_vocab_size()))
        model.encoder.load_state_dict(loaded.model.encoder.state_dict())
        return model, own


class Trainer:
    """Everything a run needs, and `step` to move it on; `state` and `load` make it resumable from any step."""

    def __init__(self, config: TrainConfig, root: Path, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.step_count, self.spent = config, device, 0, 0.0
        model, self.tokenizer = config.begin(root)
        self.model, width = model.to(device), model.config.encoder.width
        self.model.encoder.subsampling.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.between = CtcHead(width, model.config.pieces).to(device) if config.between >= 0 else None
        self.word_errors = WordErrors(config.word_errors, model, self.tokenizer, root) if config.word_errors else None
        self.parameters = [p for m in (self.model, self.between) if m is not None for p in m.parameters()]
        o = config.optimizer
        self.optimizers = optimizers(self.model.encoder.layers, self.parameters, o.rate, weight_decay=o.weight_decay,
                                     inner=o.rate if o.muon else None)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def rate(self) -> float:
        """The learning rate of the next step. `spent`, the share of the time allowed, counts like steps made."""
        o, step = self.config.optimizer, self.step_count
        warm = min(1.0, (step + 1) / max(o.warmup, 1))
        left = min(o.steps - step, (1 - self.spent) * o.steps)
        cool = max(0.0, left / max(o.cooldown * o.steps, 1.0))
        return o.rate * min(warm, cool, 1.0)

    def step(self, batch: Batch) -> Tensor:
        """One update. Returns the loss in nats a token, left on the device: to read it is to
        wait for it."""
        self.model.train()
        for group in chain.from_iterable(o.param_groups for o in self.optimizers):
            group["lr"] = self.rate()
        with mixed(self.device, self.config.bfloat16):
            loss = self.loss(batch.to(self.device))
        loss.backward()
        self._share_gradients()
        nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step_count += 1
        self._update_average()
        return loss.detach()

    def loss(self, batch: Batch) -> Tensor:
        """Nats a token, all heads together."""
        draw = random.Random(self.config.seed * 1_000_003 + self.step_count)
        torch.manual_seed(draw.randrange(2**62))  # dropout's, whatever was drawn or resumed before
        lookahead = draw.choice(self.config.lookaheads)
        mel, frames = self.model.features(batch.pcm, batch.samples)
        targets, twice = (batch.tokens, batch.token_lengths), self.config.consistency > 0
        if twice:  # two views of every utterance, masked apart, one below the other
            mel, frames, targets = _doubled(mel), _doubled(frames), (_doubled(targets[0]), _doubled(targets[1]))
        mel = self.config.spec_augment(mel, frames, seed=draw.randrange(2**31))
        x, middle, count = self._encode(mel, frames, lookahead)
        assert self.model.ctc is not None
        loss = self.model.ctc.loss(x, count, *targets)
        if batch.phones is not None and self.model.phones is not None:
            phones = _doubled(batch.phones) if twice else batch.phones
            loss = loss + self.config.phones_weight * self._named(x, count, phones)
        if self.between is not None:
            loss = torch.lerp(loss, self.between.loss(middle, count, *targets), self.config.between_weight)
        if twice:
            loss = loss + self.config.consistency * consistency(self.model.ctc(x), count)
        if self.word_errors is not None and self.config.word_errors is not None:
            loss = loss + self.config.word_errors.weight * self.word_errors.loss(x, count, *targets)
        if self.model.transducer is not None:
            a_token = len(count) / targets[1].sum().clamp(min=1)
            transducer = self.model.transducer.loss(x, count, *targets) * a_token
            loss = torch.lerp(transducer, loss, self.config.ctc_weight)
        return loss

    def _named(self, x: Tensor, count: Tensor, phones: Tensor) -> Tensor:
        """Cross-entropy of the phone of every half frame."""
        assert self.model.phones is not None
        said = self.model.phones(x).flatten(1, 2)
        n = min(said.shape[1], phones.shape[1])
        phones = phones[:, :n].masked_fill(~count_mask(LABELS_A_FRAME * count, n), -1)
        known = (phones >= 0).sum().clamp(min=1)  # a mean over none would be no number
        return F.nll_loss(said[:, :n].transpose(1, 2), phones, ignore_index=-1, reduction="sum") / known

    def _encode(self, mel: Tensor, frames: Tensor, lookahead: int) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder frames, those after layer `between` (or the same), and their counts."""
        caught: list[Tensor] = []
        layer = self.model.encoder.layers[self.config.between]
        hook = layer.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
        try:
            x, count = self.model.encoder(mel, frames, lookahead)
        finally:
            hook.remove()
        return x, caught[0], count

    def _share_gradients(self) -> None:
        """The mean over all processes that torchrun started."""
        if not dist.is_initialized():
            return
        for p in self.parameters:
            if p.grad is None:  # this rank's batch did not reach it; others may have
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, part in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            p.grad = part.view_as(p)

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.config.optimizer.average, (1 + self.step_count) / (10 + self.step_count))
        mine = list(self.average.values())
        torch._foreach_lerp_(mine, [p.detach() for p in self.model.parameters()], 1 - keep)

    def averaged(self) -> AsrModel:
        """A copy of the model with averaged weights, in evaluation mode."""
        # a phone layer that timed speech alone taught is no longer the encoder's, and would be noise to the beam
        kept = self.model.config.phones and bool(self.config.data.phones)
        model = AsrModel(dataclasses.replace(self.model.config, phones=kept)).to(self.device)
        mine = {**self.model.state_dict(), **self.average}
        model.load_state_dict({name: mine[name] for name in model.state_dict()})
        return model.eval()

    def state(self) -> dict[str, Any]:
        return {"step": self.step_count, "spent": self.spent, "model": self.model.state_dict(), "average": self.average,
                "between": None if self.between is None else self.between.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers]}

    def load(self, state: dict[str, Any]) -> None:
        self.step_count, self.spent = state["step"], state.get("spent", 0.0)
        self.model.load_state_dict(state["model"])
        self.average = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
        if self.between is not None:
            self.between.load_state_dict(state["between"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _doubled(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def consistency(log_probs: Tensor, count: Tensor) -> Tensor:
    """How far the two halves of a batch are from each other's distributions, nats a frame: the mean of both
    Kullback-Leibler divergences, each half the other's fixed target (CR-CTC).

    log_probs: (2 B, T, labels); count: (2 B,) frames, the same in both halves.
    """
    a, b = log_probs.chunk(2)
    apart = F.kl_div(a, b.detach(), reduction="none", log_target=True) + F.kl_div(
        b, a.detach(), reduction="none", log_target=True)
    inside = count_mask(count[: len(a)], a.shape[1])
    return 0.5 * apart.sum(-1)[inside].sum() / count[: len(a)].sum().clamp(min=1)


class Run:
    """A trainer with its folder: log, checkpoints, export."""

    def __init__(self, config: TrainConfig, root: Path, folder: Path, device: torch.device) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.trainer = Trainer(config, root, device)
        self.rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.data = TrainingData(config.data, root, self.trainer.tokenizer, seed=config.seed, rank=self.rank,
                                 world=world)
        self.dev = self.data.dev(root)
        self.log(self.data.summary)
        self.checkpoint = folder / "last.pt"
        resume(self.checkpoint, device, self.trainer.load)
        self.stopping = False

    def train(self, minutes: float = 0, finish: bool = False) -> None:
        """Until the last step, `minutes` have passed, or a signal asks to stop; always leaves a checkpoint.

        finish: the rate falls to 0 within the minutes, those before a restart counted in, and the run is then done.
        """
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        if self.trainer.step_count >= self.config.optimizer.steps:
            return
        began = saved = time.monotonic()
        meter, before = Meter(), self.trainer.spent
        for batch in meter.ready(self.batches()):
            meter.take(self.trainer.step(batch), batch)
            now = time.monotonic()
            share = (now - began) / (60 * minutes) if minutes else 0.0
            self.trainer.spent = before + share if finish else 0.0
            over = self._everyone(self.stopping or share > 1 or self.trainer.spent > 1)
            done = self.trainer.step_count >= self.config.optimizer.steps
            if self.trainer.step_count % 50 == 0 or over or done:
                self.log(f"{meter.read()}  lr {self.trainer.rate():.2e}")
            if self.trainer.step_count % self.config.measure_steps == 0 or done:
                self.measure()
            if over or done or now - saved > self.config.save_minutes * 60:
                self.save()
                saved = time.monotonic()
            if over or done:
                return

    def batches(self) -> Iterator[Batch]:
        """From the trainer's step on: timed speech first, then the data."""
        timed, step = self.config.timed, self.trainer.step_count
        if step < timed:
            speech = TimedSpeech(self.data.texts, self.trainer.tokenizer, self.config.timed_seconds,
                                 seed=self.config.seed * 1000 + self.rank)
            yield from islice(speech.batches(step, self.config.data.workers), timed - step)
            step = timed
        yield from self.data.batches(step - timed)

    def _everyone(self, stop: bool) -> bool:
        """What rank 0 decides: one that stopped alone would leave the others waiting for its gradients."""
        if not dist.is_initialized():
            return stop
        decision = torch.tensor([int(stop)], device=self.trainer.device)
        dist.broadcast(decision, 0)
        return bool(decision)

    def measure(self) -> None:
        if self.rank:
            return
        model = self.trainer.averaged()
        for name, utterances in self.dev.items():
            rates = error_rates(model, self.trainer.tokenizer, utterances, lookahead=6)
            self.log(f"{name}: WER {100 * rates.words.rate:.1f} %  CER {100 * rates.characters.rate:.1f} %")

    def save(self) -> None:
        if self.rank:
            return
        keep(self.trainer.state(), self.checkpoint)
        save(self.trainer.averaged(), self.trainer.tokenizer, self.folder / "export")

    def log(self, text: str) -> None:
        if self.rank:
            return
        line = f"{time.strftime('%H:%M:%S')} step {self.trainer.step_count}  {text}"
        print(line, flush=True)
        with (self.folder / "log.txt").open("a") as f:
            f.write(line + "\n")

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """changes: as `read_toml` takes them. Raises BadConfig: unreadable, not TOML, unknown keys."""
    return read_toml(TrainConfig, path, changes)


def add_config(parser: argparse.ArgumentParser) -> None:
    """The configuration and changes to it."""
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="another value than the configuration's, like optimizer.steps=100; again for more")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="vivavoce train asr", description="Train a recogniser; resumes by itself.")
    add_config(parser)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VIVAVOCE_DATA", ".")),
                        help="folder that the paths in the config start from (default: $VIVAVOCE_DATA)")
    parser.add_argument("--out", type=Path, default=None, help="run folder (default: runs/NAME)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long, with a checkpoint")
    parser.add_argument("--finish", action="store_true", help="let the rate fall to 0 within --minutes")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")  # TF32 where bf16 does not reach; nothing to a CPU
    config, device = read_config(args.config, args.set), usable(args.device)
    if "LOCAL_RANK" in os.environ:  # started by torchrun
        dist.init_process_group()
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
    run = Run(config, args.data, args.out or Path("runs") / config.name, torch.device(device))
    run.train(args.minutes, args.finish)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
