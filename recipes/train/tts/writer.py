"""Training of the token model: it learns to write the speech tokens of a voice's recordings from their phones.

Phones come from `align`, tokens from the trained tokenizer. Half of the utterances are laid out as a whole text with
its speech after it, half as text and speech in turns, so that one model does both; longer ones are cut between words.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vivavoce.speech.tts.tokens import SpeechTokenizer
from vivavoce.speech.tts.writer import NOT_PREDICTED, Writer, layout

from .align import Aligned
from .data import Recording
from .schedule import OptimizerConfig
from .speech import Example, Told, shorten
from .tokens import at_low_rate, frames_of


@dataclass(frozen=True)
class WriterTraining:
    """width, hidden, layers, heads, read, write: of the writer (see `WriterConfig`; write is for 80 ms tokens); items:
    of a batch, about; longest: frames of one utterance; lookahead: of the encoder that makes its tokens; interleaved:
    share of utterances laid out in turns; dropped: share of the tokens read that are replaced by others, as the model's
    own will be wrong too; others_until: the step from which on only the voice's own recordings are read."""

    width: int = 192
    hidden: int = 512
    layers: int = 4
    heads: int = 4
    read: int = 12
    write: int = 12
    items: int = 1200
    longest: int = 600
    lookahead: int = 6
    interleaved: float = 0.5
    dropped: float = 0.1
    others_until: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


class WriterPart:
    """The token model in training; a `Part`. others: whose tokens it writes until `others_until`."""

    def __init__(self, writer: Writer, own: Sequence[Told], others: Sequence[Told], tokenizer: SpeechTokenizer,
                 config: WriterTraining, device: torch.device, seed: int) -> None:
        self.config, self.device, self.seed = config, device, seed
        self.writer, self.each = writer, frames_of(tokenizer)
        self.model: nn.Module = writer.to(device)
        heard = others if config.others_until else ()
        self.train, self.dev, strangers = (
            [spoken(r, a, tokenizer, config.lookahead) for r, a in recordings if a and r.split == split]
            for recordings, split in ((own, "train"), (own, "dev"), (heard, "train")))
        self.everybody = self.train + strangers

    def loss(self, step: int) -> dict[str, Tensor]:
        draw = random.Random(self.seed * 1_000_003 + step)
        heard = self.everybody if step < self.config.others_until else self.train
        lines: list[tuple[list[int], list[int]]] = []
        while sum(len(line) for line, _ in lines) < self.config.items:
            e = shorten(draw.choice(heard), self.config.longest, draw)
            lines.append(self._line(e, interleaved=draw.random() < self.config.interleaved))
        x, targets = self._together(lines)
        c = self.writer.config
        wrong = (torch.rand_like(x, dtype=torch.float32) < self.config.dropped) & (x >= c.symbols) & (x < c.over)
        x = torch.where(wrong, torch.randint_like(x, c.symbols, c.over), x)
        scores = self.model(x).flatten(0, 1).float()
        return {"items": F.cross_entropy(scores, targets.flatten(), ignore_index=NOT_PREDICTED)}

    def _line(self, e: Example, *, interleaved: bool) -> tuple[list[int], list[int]]:
        return layout(self.writer.config, e.phones.tolist(), e.frames[self.each // 2 :: self.each, 0].long().tolist(),
                      interleaved=interleaved)

    def _together(self, lines: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        x = pad_sequence([torch.tensor(line) for line, _ in lines], batch_first=True)
        targets = pad_sequence([torch.tensor(t) for _, t in lines], batch_first=True, padding_value=NOT_PREDICTED)
        return x.to(self.device), targets.to(self.device)

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """On dev recordings, in both layouts: nats a token, and the share of tokens that are the likeliest."""
        figures: dict[str, float] = {}
        for name, interleaved in (("whole", False), ("in turns", True)):
            x, targets = self._together([self._line(e, interleaved=interleaved) for e in self.dev[:20]])
            scores, wanted = model(x).flatten(0, 1).float(), targets.flatten()
            said = wanted != NOT_PREDICTED
            figures[f"{name}, nats"] = float(F.cross_entropy(scores, wanted, ignore_index=NOT_PREDICTED))
            figures[f"{name}, right"] = float((scores.argmax(-1) == wanted)[said].float().mean())
        return figures

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


def spoken(recording: Recording, aligned: Aligned, tokenizer: SpeechTokenizer, lookahead: int) -> Example:
    """Its phones, their durations, and for every frame the token that stands for it, (T, 1)."""
    phones, durations = (torch.tensor(x) for x in aligned)
    tokens = tokenizer.tokens(at_low_rate(recording), lookahead)
    frames = tokens.repeat_interleave(frames_of(tokenizer))[: int(durations.sum()), None]
    return Example(phones, durations, frames.float(), 0)
