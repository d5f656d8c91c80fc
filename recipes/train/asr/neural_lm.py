"""Trains the recurrent language model that the beam search fuses beside the n-gram (speech/asr/neural_lm.py).

Sentences are drawn from the text corpora and the human training transcripts by share, none that dev transcripts share;
each block is drawn from the seed and its own number, so that a run goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from vivavoce.recipes.data import corpora, manifest
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.recipes.data.tokenizer import read_tokenizer
from vivavoce.recipes.train.resume import keep, resume
from vivavoce.speech.asr.neural_lm import NeuralLm
from vivavoce.speech.text import normalize
from vivavoce.streaming.errors import VivaVoceError

from .ngram import SHARES, perplexity

TRANSCRIPTS = 0.03  # share of the human training transcripts
ROWS, SPAN, SPANS = 64, 64, 32  # a batch is ROWS streams of SPAN pieces; SPANS batches go on from one another
ALONE = 0.7  # of the sentences are marked as beginning: a stream runs on without marks
SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Text:
    """Sentences of every corpus as pieces, and the share of each corpus."""

    corpora: tuple[tuple[NDArray[np.int16], ...], ...]
    shares: NDArray[np.float64]

    def block(self, number: int, seed: int, mark: int) -> NDArray[np.int64]:
        """ROWS streams of SPAN * SPANS + 1 pieces, marks among them."""
        rng, size = np.random.default_rng((seed, number)), ROWS * (SPAN * SPANS + 1)
        parts, length = list[NDArray[np.int16]](), 0
        while length < size:
            sentences = self.corpora[rng.choice(len(self.corpora), p=self.shares)]
            sentence = sentences[rng.integers(len(sentences))]
            part = np.concatenate([[mark], sentence]) if not parts or rng.random() < ALONE else sentence
            parts.append(part)
            length += len(part)
        return np.concatenate(parts)[:size].reshape(ROWS, -1).astype(np.int64)


def read_text(text_dir: Path, speech_dir: Path, tokenizer: Tokenizer, limit: int | None, seed: int) -> Text:
    """Raises BadConfig, BadManifest."""
    dev = DevSentences.from_manifests(speech_dir)
    read = corpora.read_all(text_dir, dev, seed=seed, limit=limit, weights=SHARES)
    found = [(c.sentences, share) for c, share in read]
    heard = {text: None for u in manifest.load_all(speech_dir, "train") if (text := normalize(u.text))}
    found.append((tuple(text for text in heard if not dev.overlaps(text)), TRANSCRIPTS))
    found = [(sentences, share) for sentences, share in found if sentences]
    shares = np.array([share for _, share in found])
    encoded = (tokenizer.encode_batch_fast(list(sentences), add_special_tokens=False) for sentences, _ in found)
    return Text(tuple(tuple(np.asarray(e.ids, np.int16) for e in one) for one in encoded), shares / shares.sum())


class Training:
    """The model, its optimiser and how far it has come; a value in a file between runs."""

    def __init__(self, model: NeuralLm, rate: float, steps: int, cooldown: float, seed: int) -> None:
        self.model, self.rate, self.steps, self.cooldown, self.seed = model, rate, steps, cooldown, seed
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.step = 0

    def rate_at(self, step: int) -> float:
        """Warm-up, then `rate`, then a line to nothing over the last `cooldown` of the steps."""
        left = (self.steps - step) / max(self.cooldown * self.steps, 1)
        return self.rate * min(1.0, (step + 1) / 100, left)

    def update(self, tokens: Tensor, memory: tuple[Tensor, Tensor]) -> tuple[float, tuple[Tensor, Tensor]]:
        """One step on (SPAN + 1, ROWS) pieces; returns the mean loss in nats a piece and the memory after them."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate_at(self.step)
        y, memory = self.model(tokens[:-1], memory)
        wanted = tokens[1:].masked_fill(tokens[1:] == self.model.pieces, -100)  # nobody has to foretell a mark
        loss = torch.nn.functional.nll_loss(y.flatten(0, 1), wanted.flatten(), ignore_index=-100)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item(), (memory[0].detach(), memory[1].detach())

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


def train(training: Training, text: Text, out: Path, dev: Sequence[Sequence[int]]) -> None:
    """To the last step, with a line every SPANS steps, a checkpoint every few minutes and the model at the end."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, saved = out / "last.pt", time.monotonic()
    resume(checkpoint, torch.device("cpu"), training.load)
    while training.step < training.steps:
        number, at = divmod(training.step, SPANS)
        block = torch.from_numpy(text.block(number, training.seed, training.model.pieces)).T.contiguous()
        memory, losses, begun = training.model.start(ROWS), list[float](), time.monotonic()
        for i in range(at, min(SPANS, at + training.steps - training.step)):
            loss, memory = training.update(block[i * SPAN : (i + 1) * SPAN + 1], memory)
            losses.append(loss)
        pace = len(losses) * ROWS * SPAN / (time.monotonic() - begun)
        rate = training.rate_at(training.step - 1)
        print(f"step {training.step}  loss {np.mean(losses):.3f}  {pace:.0f} pieces/s  lr {rate:.2e}", flush=True)
        if training.step == training.steps or time.monotonic() - saved > SAVE_SECONDS:
            keep(training.state(), checkpoint)
            saved = time.monotonic()
            found, _ = perplexity(training.model, dev)
            print(f"step {training.step}  dev transcripts: perplexity {found:.2f} a piece", flush=True)
    training.model.save(out / "lm.safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or go on training; exit code 0 done, 1 failed, 2 bad usage."""
    p = argparse.ArgumentParser("vivavoce train lm", description="Train the neural language model of a beam search.")
    p.add_argument("--text-dir", type=Path, required=True)
    p.add_argument("--speech-dir", type=Path, required=True)
    p.add_argument("--tokenizer", type=Path, required=True, help="the recogniser's tokenizer.json")
    p.add_argument("--out", type=Path, required=True, help="folder: lm.safetensors, and last.pt to go on from")
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--hidden", type=int, default=640)
    p.add_argument("--steps", type=int, default=5000, help=f"of {ROWS * SPAN} pieces")
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--cooldown", type=float, default=0.5, help="share of the steps over which the rate falls")
    p.add_argument("--limit", type=int, help="sentences read of each corpus at most")
    p.add_argument("--threads", type=int)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        tokenizer = read_tokenizer(args.tokenizer)
        text = read_text(args.text_dir, args.speech_dir, tokenizer, args.limit, args.seed)
        heard = [said for u in manifest.load_all(args.speech_dir, "dev") if (said := normalize(u.text))]
        model = NeuralLm(tokenizer.get_vocab_size(), args.width, args.hidden)
        training = Training(model, args.rate, args.steps, args.cooldown, args.seed)
        train(training, text, args.out, [tokenizer.encode(said).ids for said in heard])
    except VivaVoceError as e:
        print(f"lm: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
