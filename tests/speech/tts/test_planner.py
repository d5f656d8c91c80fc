"""The planner draws four frames for a token, the same however the tokens come."""

from __future__ import annotations

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


def test_it_looks_back_only(planner: Planner) -> None:
    a = torch.tensor([[1, 2, 3, 4, 5]])
    b = torch.tensor([[1, 2, 3, 9, 9]])
    same = (planner(a) - planner(b)).abs().amax(-1)[0] == 0
    assert same.tolist() == [True] * 12 + [False] * 8
