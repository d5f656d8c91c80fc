"""The shapes of a voice's models: small frozen dataclasses, saved as config.json beside the weights."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class AcousticConfig:
    """width: of the phone encoder and the frame decoder; hidden: inside their blocks; phone_layers, frame_layers: how
    many blocks; kernel: of their convolutions, in phones and in frames; condition: features a frame beside its mean."""

    width: int = 192
    hidden: int = 640
    heads: int = 2
    phone_layers: int = 4
    frame_layers: int = 5
    kernel: int = 7
    condition: int = 48
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 2 or self.kernel % 2 == 0:
            raise ValueError(f"{self}: width / heads must be whole and even, kernel odd")


@dataclass(frozen=True)
class FlowConfig:
    """chunk: frames of the smallest step; left: how many frames back attention sees; lookahead: frames that the
    convolution before the first layer looks ahead; kernel: of each layer's causal convolution."""

    width: int = 256
    hidden: int = 768
    heads: int = 4
    layers: int = 4
    kernel: int = 5
    chunk: int = 5
    left: int = 100
    lookahead: int = 3
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"{self}: width / heads must be whole and even")
        if self.left < self.chunk or self.chunk < 1 or self.lookahead < 0:
            raise ValueError(f"{self}: chunk must be 1 or more and left at least a chunk")


@dataclass(frozen=True)
class VocoderConfig:
    """width, hidden, layers, kernel: of the causal blocks over frames."""

    width: int = 256
    hidden: int = 768
    layers: int = 5
    kernel: int = 5


@dataclass(frozen=True)
class VoiceConfig:
    """One voice: its models, and who was heard in training (`speakers`); `speaker` of them is who speaks.

    symbols: how many phones it was trained on, the first of the table in phones.py.
    """

    name: str
    symbols: int
    speakers: tuple[str, ...]
    speaker: str
    acoustic: AcousticConfig = field(default_factory=AcousticConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)

    def __post_init__(self) -> None:
        if self.speaker not in self.speakers:
            raise ValueError(f"speaker {self.speaker!r} is not one of {', '.join(self.speakers)}")
