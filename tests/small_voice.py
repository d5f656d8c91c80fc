"""A voice so small that it loads in no time, as several tests use it."""

from __future__ import annotations

import torch

from vivavoce.speech.tts import mel
from vivavoce.speech.tts.config import AcousticConfig, FlowConfig, VocoderConfig, VoiceConfig
from vivavoce.speech.tts.phones import SYMBOLS
from vivavoce.speech.tts.voice import Voice

SMALL = VoiceConfig(
    "small", len(SYMBOLS), ("a", "b"), "b",
    AcousticConfig(width=16, hidden=24, heads=2, phone_layers=1, frame_layers=1, kernel=3, condition=4),
    FlowConfig(width=16, hidden=24, heads=2, layers=2, kernel=3, chunk=4, left=12),
    VocoderConfig(width=16, hidden=24, layers=1, kernel=3),
)


def make_voice(dtype: torch.dtype = torch.float32) -> Voice:
    """Random weights, phones of two or three frames, speech-like levels and pitch."""
    torch.manual_seed(0)
    voice = Voice(SMALL).eval().requires_grad_(False)
    torch.nn.init.normal_(voice.flow.out.weight, std=0.1)
    voice.acoustic.duration[-1].bias.fill_(1.2)  # type: ignore[union-attr,operator]
    voice.acoustic.mean[: mel.MELS], voice.acoustic.mean[mel.PITCH], voice.acoustic.mean[mel.VOICED] = -3, 0.0, 0.5
    voice.acoustic.deviation[mel.PITCH] = 0.1
    return voice.to(dtype)
