"""The key cache gives what a list of the last frames gives, in a slice of the cache while there is room."""

import random

import pytest
import torch
from torch import Tensor

from vivavoce.speech.nn.key_cache import ROOM, align_, append_

KEPT, SLOTS = 5, 3


def empty() -> tuple[Tensor, Tensor]:
    return torch.zeros(SLOTS, 2, 1, KEPT + ROOM, 2), torch.full((SLOTS,), KEPT)


def step(cache: Tensor, end: Tensor, new: Tensor, count: Tensor, ragged: bool) -> Tensor:
    """What the encoder does with it for each layer and step."""
    frames = new.shape[3]
    at = align_([cache], end, KEPT, frames)
    window = append_(cache, new, at, KEPT, count if ragged else None)
    if at + frames <= KEPT + ROOM:
        end += count
    return window


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("longest", [1, 7, ROOM, ROOM + 20])
def test_it_is_the_last_frames_of_every_slot(longest: int, ragged: bool, seed: int) -> None:
    rng = random.Random(seed)
    cache, end = empty()
    seen = [[torch.zeros(2, 1, 2)] * KEPT for _ in range(SLOTS)]
    for i in range(30):
        frames = rng.randint(1, longest)
        counts = [rng.randint(0, frames) if ragged else frames for _ in range(SLOTS)]
        new = torch.randn(SLOTS, 2, 1, frames, 2, generator=torch.Generator().manual_seed(1000 * seed + i))
        window = step(cache, end, new, torch.tensor(counts), ragged)
        for slot, count in enumerate(counts):
            expected = torch.stack([*seen[slot][-KEPT:], *new[slot].unbind(2)], 2)
            assert torch.equal(window[slot], expected)
            seen[slot] += new[slot, :, :, :count].unbind(2)


def test_while_there_is_room_nothing_is_copied() -> None:
    cache, end = empty()
    for i in range(ROOM):
        window = step(cache, end, torch.ones(SLOTS, 2, 1, 1, 2), torch.ones(SLOTS, dtype=torch.int64), False)
        assert window.data_ptr() == cache[:, :, :, i:].data_ptr()
    assert end.tolist() == [KEPT + ROOM] * SLOTS


def test_slots_that_drift_apart_meet_again_at_the_front() -> None:
    cache, end = empty()
    step(cache, end, torch.ones(SLOTS, 2, 1, 2, 2), torch.tensor([2, 0, 1]), True)
    assert end.tolist() == [KEPT + 2, KEPT, KEPT + 1]
    assert align_([cache], end, KEPT, 1) == KEPT
    assert end.tolist() == [KEPT] * SLOTS
