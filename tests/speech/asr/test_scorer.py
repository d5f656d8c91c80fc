"""A function over the last tokens as a scorer: it follows prefixes as they grow, are kept and are dropped."""

from __future__ import annotations

import torch

from vivavoce.speech.asr.scorer import ContextScorer


def spelt(context: tuple[int, ...], token: int | None) -> float:
    """The context and the token as one number, so that a mix-up shows."""
    return float(sum(10**i * (value + 1) for i, value in enumerate((*context, -1 if token is None else token))))


def test_every_prefix_is_scored_by_its_own_last_tokens() -> None:
    scorer = ContextScorer(spelt, 2)
    state = scorer.init_state(1, 2)
    asked = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1]), torch.tensor([3, 4, 3, 4])
    assert scorer.score(state, *asked).tolist() == [400, 500, 400, 500]
    scorer.advance(state, torch.tensor([[0, 1]]), torch.tensor([[5, 6]]), torch.tensor([[True, False]]))
    assert scorer.score(state, *asked).tolist() == [460, 560, 400, 500]
    assert bool((scorer.at_most(asked[2]) >= scorer.score(state, *asked)).all())
    scorer.advance(state, torch.tensor([[0, 0]]), torch.tensor([[7, 0]]), torch.tensor([[True, False]]))
    assert state.context.tolist() == [[[5, 7], [-1, 5]]]
    assert scorer.finish(state).tolist() == [[86, 60]]
