"""The decoder without a cache: its vocabulary grows, and it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder

TOKENS = 40


def decoder(**options: Any) -> Decoder:
    model = Decoder(LlmConfig(TOKENS, 16, 2, heads=4, kv_heads=2, head_dim=6, hidden=24, **options))
    draw = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=draw) * 0.4 + (weight.dim() == 1))
    return model.double().eval().requires_grad_(False)


def text(n: int) -> torch.Tensor:
    return torch.randint(0, TOKENS, (1, n), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [True, False])
def test_an_extended_vocabulary_scores_old_tokens_as_before(tied: bool) -> None:
    model, tokens = decoder(tied=tied), text(10)
    before = model.logits(model(tokens))
    model.extend_vocabulary(7)
    after = model.logits(model(tokens))
    assert model.config.vocabulary == after.shape[-1] == TOKENS + 7
    assert torch.equal(after[..., :TOKENS], before)
    assert model.logits(model(torch.tensor([[TOKENS + 6]]))).isfinite().all()
    spread = model.embed.weight[TOKENS:].std() / model.embed.weight[:TOKENS].std()
    assert 0.7 < float(spread) < 1.3


def test_gradients_flow_through_the_pass_without_a_cache() -> None:
    model, tokens = decoder().requires_grad_(True), text(6)
    model.logits(model(tokens)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
