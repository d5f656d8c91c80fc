"""The planner draws four frames for a token, the same however the tokens come."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from streams import one_pass, streamed, worst

from vivavoce.speech.tts import mel
from vivavoce.speech.tts.planner import FRAMES, Planner, PlannerConfig

CONFIG = PlannerConfig((4, 3), "mark", condition=5, width=16, hidden=24, layers=2, kernel=3)


@pytest.fixture
def planner() -> Planner:
    torch.manual_seed(0)
    return Planner(CONFIG).double().eval()


def test_any_chunking_in_any_company_equals_one_pass(planner: Planner) -> None:
    streams = [torch.randint(12, (n,), generator=torch.Generator().manual_seed(n)) for n in (1, 6, 17)]
    made = streamed(planner, streams, pushes=[[1], [2, 0, 1], [5, 3]], lookaheads=[0, 0, 0], move_at=3)
    for x, y in zip(streams, made, strict=True):
        assert y.shape == (FRAMES * len(x), mel.WIDTH + 5) == (4 * len(x), planner.width)
        assert worst(y, one_pass(planner, x)) < 1e-10
        assert worst(planner(x[None])[0].detach(), y) < 1e-10


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_it_looks_so_far_ahead_and_no_farther(ahead: int) -> None:
    planner = Planner(dataclasses.replace(CONFIG, ahead=ahead)).double().eval()
    a = torch.tensor([[1, 2, 3, 4, 5, 6]])
    b = torch.tensor([[1, 2, 3, 4, 9, 9]])
    same = (planner(a) - planner(b)).abs().amax(-1)[0] == 0
    assert same.tolist() == [True] * 4 * (4 - ahead) + [False] * 4 * (2 + ahead)
    stream = a[0]
    assert worst(one_pass(planner, stream), planner(a)[0].detach()) < 1e-10


def test_what_is_past_the_last_token_counts_for_nothing(planner: Planner) -> None:
    alone = planner(torch.tensor([[1, 2, 3]]))
    padded = planner(torch.tensor([[1, 2, 3, -1, -1]]))
    assert worst(alone[0].detach(), padded[0, :12].detach()) < 1e-12
