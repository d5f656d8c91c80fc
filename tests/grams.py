"""A made-up n-gram as plain dictionaries, its probabilities by definition, and the same as a model."""

from __future__ import annotations

import random

import torch

from vivavoce.speech.asr.ngram import NGram

PIECES, ORDER = 6, 4
Grams = dict[tuple[int, ...], tuple[float, float]]


def grams(seed: int = 0) -> Grams:
    """Made-up kept n-grams, with (log-probability, back-off) each; every context of a kept one is kept."""
    rng = random.Random(seed)
    kept: list[list[tuple[int, ...]]] = [[(w,) for w in range(PIECES + 1)]]
    for _ in range(ORDER - 1):
        kept.append([(*h, w) for h in kept[-1] for w in range(PIECES) if rng.random() < 0.4])
    inner = {g for level in kept[:-1] for g in level}
    return {g: (rng.uniform(-6, 0), rng.uniform(-2, 0.3) if g in inner else 0.0) for level in kept for g in level}


def model(of: Grams) -> NGram:
    node = {g: i for i, g in enumerate(of)}
    return NGram(
        key=torch.tensor([node[g[:-1]] * PIECES + g[-1] for g in of if len(g) > 1]),
        log_prob=torch.tensor([p for p, _ in of.values()]),
        backoff=torch.tensor([*(b for _, b in of.values()), 0.0]),
        word_start=torch.arange(PIECES) < 3,
        order=ORDER,
    )


def plain(of: Grams, context: tuple[int, ...], token: int) -> float:
    """Back-off by its definition."""
    if (*context, token) in of:
        return of[(*context, token)][0]
    return of.get(context, (0.0, 0.0))[1] + plain(of, context[1:], token)
