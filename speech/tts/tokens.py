"""Speech tokens: PCM at 16 kHz in, a whole number for every 80 or 40 ms of speech out, saying what is said.

The lower layers of a recogniser's encoder, frozen, or its 25 Hz tap below them, and a finite scalar quantiser on top
(arXiv 2309.15505): a few numbers a frame, each rounded to a few levels. Models that read tokens keep the tokenizer's
fingerprint and refuse those of another. The voice they are to be said in comes from the planner.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor, nn

from vivavoce.speech.features import LogMel
from vivavoce.speech.nn.encoder import Encoder, EncoderConfig
from vivavoce.speech.weights import SCALE, pack
from vivavoce.streaming.chain import AnyStage, Chain
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .tap import PAIR, Tap, tap_width

RATE, HOP = 16_000, 1280  # samples a second, and an encoder frame


@dataclass(frozen=True)
class TokenizerConfig:
    """encoder: the frozen lower layers; levels: of each quantised number, their product the number of codes; tap: take
    tokens below the layers, 25 a second, instead of above them, 12.5."""

    encoder: EncoderConfig
    preemphasis: float = 0.97
    levels: tuple[int, ...] = (8, 5, 5, 5)
    hidden: int = 160
    tap: bool = field(default=False, repr=False)  # fingerprints tell by the weights, and older ones stay valid

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels {self.levels}: at least one number, of two levels or more")

    @property
    def codes(self) -> int:
        return math.prod(self.levels)

    @property
    def hop(self) -> int:
        """Samples a token, at RATE."""
        return HOP // PAIR if self.tap else HOP

    @property
    def width(self) -> int:
        """Of the frames that are quantised."""
        return tap_width(self.encoder) if self.tap else self.encoder.width


class Fsq(nn.Module):
    """Numbers (..., d) bounded and rounded to some levels each; gradients pass through the rounding."""

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        strides = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Bounded and rounded, -1 to 1, with straight-through gradients."""
        half = (self.levels.to(x.dtype) - 1) / 2
        place = (torch.tanh(x) + 1) * half
        return (place + (place.round() - place).detach()) / half - 1

    def tokens(self, x: Tensor) -> Tensor:
        """(..., d) before bounding -> (...) int64."""
        place = ((torch.tanh(x) + 1) * (self.levels.to(x.dtype) - 1) / 2).round().long()
        return (place * self.strides).sum(-1)

    def values(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., d): what `forward` made of what they stand for."""
        place = tokens[..., None] // self.strides % self.levels
        return place * 2 / (self.levels - 1) - 1


@dataclass(frozen=True, eq=False)
class QuantiserState(State):
    """tokens: (slots,) int64 given so far."""

    tokens: Tensor


class Quantiser(nn.Module):
    """Encoder frames (slots, n, width) -> tokens (slots, n) int64. A `Stage`."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        d, w = len(config.levels), config.width
        self.hz = Fraction(RATE, config.hop)
        self.down = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, config.hidden), nn.GELU(), nn.Linear(config.hidden, d))
        self.up = nn.Sequential(nn.Linear(d, config.hidden), nn.GELU(), nn.Linear(config.hidden, w))
        self.fsq = Fsq(config.levels)

    @property
    def spec(self) -> StageSpec:
        return StageSpec(self.hz, self.hz)

    def init_state(self, slots: int) -> QuantiserState:
        return QuantiserState(torch.zeros(slots, dtype=torch.int64, device=self.fsq.levels.device))

    @torch.no_grad()
    def step(self, x: Tensor, state: QuantiserState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        state.tokens.add_(valid)
        return self.fsq.tokens(self.down(x)), valid

    def forward(self, x: Tensor) -> Tensor:
        """Encoder frames through the bottleneck and back, (..., width), with gradients."""
        return self.up(self.fsq(self.down(x)))  # type: ignore[no-any-return]


class SpeechTokenizer(nn.Module):
    """Features, encoder and quantiser."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.features = LogMel(config.encoder.mels, config.preemphasis)
        self.encoder: Encoder | Tap = Tap(config.encoder) if config.tap else Encoder(config.encoder)
        self.quantiser = Quantiser(config)

    def chain(self, rest: Sequence[tuple[AnyStage, tuple[int, ...]]] = (), *, max_lookahead: int = 69) -> Chain:
        """PCM (slots, n) at 16 kHz -> tokens (slots, m), and on through `rest`: stages with the shape of one item."""
        c = self.config.encoder
        parts: list[tuple[AnyStage, tuple[int, ...]]] = [
            (self.features, ()), (self.encoder, (c.mels,)), (self.quantiser, (self.config.width,)), *rest]
        return Chain([stage for stage, _ in parts], item_shapes=[shape for _, shape in parts],
                     like=self.features.window, max_lookahead=max_lookahead, block=560)

    @torch.no_grad()
    def tokens(self, pcm: Tensor, lookahead: int = 6) -> Tensor:
        """A whole recording, (n,) -> (m,) int64."""
        chain = self.chain()
        n = torch.tensor([len(pcm)], device=pcm.device)
        out, count = chain.step(pcm[None], chain.init_state(1), n, torch.ones_like(n, dtype=torch.bool), lookahead)
        return out[0, : int(count)]  # type: ignore[no-any-return]

    def fingerprint(self) -> str:
        """Of what decides which token comes out, the same whatever precision the weights were saved in."""
        digest = hashlib.sha256(repr(self.config).encode())
        for name, tensor in sorted(pack(self, "int8").items()):
            if not name.startswith("quantiser.up") and not name.endswith(SCALE):
                digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]
