"""Tokens: whole numbers there and back, streamed as read at once, and a fingerprint that notices another tokenizer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from streams import one_pass, streamed

from vivavoce.speech.nn.encoder import EncoderConfig
from vivavoce.speech.tts.tokens import HOP, Fsq, SpeechTokenizer, TokenizerConfig
from vivavoce.speech.weights import Precision, pack, unpack

ENCODER = EncoderConfig(width=16, layers=2, heads=2, hidden=24, channels=8, left_context=20, dropout=0.0)
CONFIG = TokenizerConfig(ENCODER, levels=(4, 3), hidden=8)


def make_tokenizer(seed: int = 0, config: TokenizerConfig = CONFIG) -> SpeechTokenizer:
    torch.manual_seed(seed)
    tokenizer = SpeechTokenizer(config).eval()
    for p in tokenizer.quantiser.parameters():
        torch.nn.init.normal_(p, std=0.7)
    return tokenizer


def test_every_code_stands_for_its_own_values() -> None:
    fsq = Fsq((4, 3))
    codes = torch.arange(12)
    values = fsq.values(codes)
    assert len(values.unique(dim=0)) == 12
    assert float(values.abs().max()) == 1
    before = torch.atanh(values.clamp(-0.999, 0.999))
    assert torch.equal(fsq.tokens(before), codes)
    assert torch.allclose(fsq(before), values, atol=1e-6)


def test_gradients_pass_through_the_rounding() -> None:
    x = torch.tensor([[0.1, -0.4]], requires_grad=True)
    Fsq((4, 3))(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad > 0).all())


@pytest.mark.parametrize("tap", [False, True])
def test_streamed_tokens_are_offline_tokens(tap: bool) -> None:
    tokenizer = make_tokenizer(config=replace(CONFIG, tap=tap)).double()
    hop, each = (HOP // 2, 2) if tap else (HOP, 1)
    assert tokenizer.config.hop == hop
    chain = tokenizer.chain()
    generator = torch.Generator().manual_seed(0)
    streams = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (500, 9000, 16_000)]
    made = streamed(chain, streams, pushes=[[320], [700, 100], [3000]], lookaheads=[1, 0, 6], move_at=3)
    for x, tokens, lookahead in zip(streams, made, (1, 0, 6), strict=True):
        assert torch.equal(tokens, one_pass(chain, x, lookahead))
        assert len(tokens) == -(-(len(x) // 160 + 7) // 8) * each or len(tokens) * hop >= len(x) - HOP
        assert torch.equal(tokens, tokenizer.tokens(x, lookahead))
        assert tokens.dtype == torch.int64
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < CONFIG.codes


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_fingerprint_outlives_saving_and_tells_tokenizers_apart(dtype: Precision) -> None:
    tokenizer, other = make_tokenizer(), make_tokenizer(1)
    mark = tokenizer.fingerprint()
    assert mark == make_tokenizer().fingerprint() != other.fingerprint()
    loaded = SpeechTokenizer(CONFIG)
    loaded.load_state_dict(unpack(pack(tokenizer, dtype)))
    if dtype != "float16":  # which moves weights before int8 rounds them
        assert loaded.fingerprint() == mark


def test_levels_need_two_values() -> None:
    assert CONFIG.codes == 12
    with pytest.raises(ValueError, match="two levels"):
        TokenizerConfig(ENCODER, levels=(4, 1))


def test_the_bottleneck_trains() -> None:
    tokenizer = make_tokenizer()
    tokenizer.quantiser(torch.randn(1, 5, 16)).square().mean().backward()
    assert all(p.grad is not None for p in tokenizer.quantiser.parameters())
