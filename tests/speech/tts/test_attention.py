"""Attention over a memory equals attention over everything, wherever in the stream it happens."""

from __future__ import annotations

import torch

from vivavoce.speech.tts.attention import Attention


def test_a_memory_stands_for_the_frames_before() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2).double()
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    causal = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    whole = attention(x, causal)
    memory = torch.zeros(1, 9, 2, 2, 8, dtype=torch.float64)
    parts = []
    for start, end in ((0, 4), (4, 5), (5, 9)):
        key = torch.arange(-9, end - start)
        query = torch.arange(end - start)[:, None]
        parts.append(attention(x[:, start:end], ((key <= query) & (key >= -start))[None, None], memory))
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-12)


def test_only_distances_matter() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2).double()
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    late = torch.cat((torch.zeros(1, 5, 16, dtype=torch.float64), x), dim=1)
    sees = torch.zeros(11, 11, dtype=torch.bool)
    sees[5:, 5:] = True
    sees[:5, :5] = True
    everything = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    assert torch.allclose(attention(late, sees[None, None])[:, 5:], attention(x, everything), atol=1e-12)
