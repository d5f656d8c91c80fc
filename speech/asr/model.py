"""The recogniser's network: features, encoder and the decoders that share it.

Configuration and weights live side by side (speech/checkpoint.py); streaming is put together in recognizer.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor, nn

from vivavoce.speech.features import LogMel
from vivavoce.speech.nn.encoder import Encoder, EncoderConfig
from vivavoce.streaming.buffers import count_mask

from .ctc import CtcHead
from .phones import PhoneHead
from .transducer import Transducer
from .voice import Gate


@dataclass(frozen=True)
class TransducerConfig:
    """hidden: width and layers: depth of the prediction network's LSTM; joint: width the joint sums in (None: hidden);
    durations: () for RNN-T, the frames a token may last for TDT; max_symbols: the most labels at one frame."""

    hidden: int = 640
    layers: int = 2
    joint: int | None = None
    durations: tuple[int, ...] = ()
    dropout: float = 0.0
    max_symbols: int = 10


@dataclass(frozen=True)
class AsrConfig:
    """pieces: how many subword tokens; blank is the next index after them. normalize: "per_feature" for checkpoints
    that need the whole utterance's mean and variance, which no stream has. lookaheads: those trained, in encoder
    frames, which a model that hears whole utterances only has none of. gate: how labels depend on voice (None: not).
    phones: whether it names the phones of its frames as well, for the beam (pronunciation.py)."""

    name: str
    encoder: EncoderConfig
    pieces: int
    ctc: bool = True
    preemphasis: float = 0.97
    normalize: Literal["none", "per_feature"] = "none"
    transducer: TransducerConfig | None = None
    lookaheads: tuple[int, ...] = (0, 1, 6, 13, 69)
    gate: Gate | None = field(default_factory=Gate)
    phones: bool = False

    def __post_init__(self) -> None:
        if self.pieces < 1:
            raise ValueError(f"pieces {self.pieces} must be at least 1")
        if not self.ctc and self.transducer is None:
            raise ValueError("a recogniser needs a decoder: set ctc or transducer")
        if self.encoder.causal and self.normalize != "none":
            raise ValueError(
                "a causal encoder cannot have features normalised over the utterance; set normalize to 'none'"
            )

    @property
    def blank(self) -> int:
        return self.pieces

    @property
    def decoders(self) -> tuple[str, ...]:
        """Of "ctc", "rnnt" and "tdt", those it has."""
        transducer = () if self.transducer is None else ("tdt" if self.transducer.durations else "rnnt",)
        return ("ctc",) * self.ctc + transducer


class AsrModel(nn.Module):
    """PCM -> encoder frames, and the heads that read them."""

    ctc: CtcHead | None
    phones: PhoneHead | None
    transducer: Transducer | None

    def __init__(self, config: AsrConfig) -> None:
        super().__init__()
        self.config = config
        self.features = LogMel(config.encoder.mels, config.preemphasis)
        self.encoder = Encoder(config.encoder)
        self.ctc = CtcHead(config.encoder.width, config.pieces) if config.ctc else None
        self.phones = PhoneHead(config.encoder.width) if config.phones else None
        self.transducer = _transducer(config)

    @classmethod
    def empty(cls, config: AsrConfig) -> Self:
        """A model whose weights have shapes but no values yet, for a loader to assign: nothing is drawn or stored."""
        with torch.device("meta"):
            model = cls(config)
        model.features = LogMel(config.encoder.mels, config.preemphasis)  # constants, which no checkpoint holds
        if model.transducer is not None and config.transducer is not None:
            model.transducer.durations = torch.tensor(config.transducer.durations, dtype=torch.int64)
        return model

    def forward(self, pcm: Tensor, samples: Tensor, lookahead: int = 69) -> tuple[Tensor, Tensor]:
        """Whole utterances: pcm (B, n) at 16 kHz, samples (B,) -> encoder frames (B, T, width), (B,) counts."""
        mel, frames = self.features(pcm, samples)
        if self.config.normalize == "per_feature":
            mel = normalize_per_feature(mel, frames)
        return self.encoder(mel, frames, lookahead)  # type: ignore[no-any-return]


def _transducer(config: AsrConfig) -> Transducer | None:
    if config.transducer is None:
        return None
    t = config.transducer
    return Transducer(config.encoder.width, config.pieces, t.hidden, t.joint, t.layers, t.durations, t.dropout)


def normalize_per_feature(mel: Tensor, frames: Tensor) -> Tensor:
    """Each mel bin to mean 0 and (unbiased) deviation 1 over its own utterance; padding becomes 0.

    mel: (B, n, mels); frames: (B,), how many of each row count. NeMo's `per_feature`.
    """
    inside = count_mask(frames, mel.shape[1])[..., None]
    mel = mel.masked_fill(~inside, 0.0)
    mean = (mel.sum(1) / frames.clamp(min=1)[:, None])[:, None]
    deviation = (mel - mean).masked_fill(~inside, 0.0)
    variance = (deviation.square().sum(1) / (frames - 1).clamp(min=1)[:, None])[:, None]
    return deviation / (variance.sqrt() + 1e-5)
