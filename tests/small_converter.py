"""A converter as small as the voice in small_voice.py, which it is for."""

from __future__ import annotations

import torch

from vivavoce.speech.nn.encoder import EncoderConfig
from vivavoce.speech.tts.convert import Converter, ConverterConfig
from vivavoce.speech.tts.planner import PlannerConfig
from vivavoce.speech.tts.tokens import SpeechTokenizer, TokenizerConfig

ENCODER = EncoderConfig(width=16, layers=2, heads=2, hidden=24, channels=8, left_context=20, dropout=0.0)
TOKENS = TokenizerConfig(ENCODER, levels=(4, 3), hidden=8)


def make_converter(seed: int = 0) -> Converter:
    torch.manual_seed(seed)
    tokenizer = SpeechTokenizer(TOKENS)
    for p in tokenizer.quantiser.parameters():
        torch.nn.init.normal_(p, std=0.7)
    planner = PlannerConfig(TOKENS.levels, tokenizer.fingerprint(), 4, width=16, hidden=24, layers=2, kernel=3)
    converter = Converter(ConverterConfig("small-convert", "small", TOKENS, planner))
    converter.tokenizer = tokenizer
    return converter.eval().requires_grad_(False)
