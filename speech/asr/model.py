"""The recogniser's network: features, encoder and the decoders that share it.

Configuration and weights live side by side (speech/checkpoint.py); streaming is put together in recognizer.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from vivavoce.speech.features import LogMel
from vivavoce.speech.nn.encoder import Encoder, EncoderConfig

from .ctc import CtcHead


@dataclass(frozen=True)
class AsrConfig:
    """pieces: how many subword tokens; blank is the next index after them. normalize: "per_feature" for checkpoints
    that need the whole utterance's mean and variance, which no stream has."""

    name: str
    encoder: EncoderConfig
    pieces: int
    ctc: bool = True
    preemphasis: float = 0.97
    normalize: Literal["none", "per_feature"] = "none"

    @property
    def blank(self) -> int:
        return self.pieces


class AsrModel(nn.Module):
    """PCM -> encoder frames, and the heads that read them."""

    ctc: CtcHead | None

    def __init__(self, config: AsrConfig) -> None:
        super().__init__()
        self.config = config
        self.features = LogMel(config.encoder.mels, config.preemphasis)
        self.encoder = Encoder(config.encoder)
        self.ctc = CtcHead(config.encoder.width, config.pieces) if config.ctc else None

    def forward(self, pcm: Tensor, samples: Tensor, lookahead: int = 69) -> tuple[Tensor, Tensor]:
        """Whole utterances: pcm (B, n) at 16 kHz, samples (B,) -> encoder frames (B, T, width), (B,) counts."""
        mel, frames = self.features(pcm, samples)
        return self.encoder(mel, frames, lookahead)  # type: ignore[no-any-return]
