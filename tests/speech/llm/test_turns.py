"""Turning by index: rotary embedding's own angles, and exact differences however far a session has come."""

from __future__ import annotations

import pytest
import torch

from vivavoce.kernels.rotary import rotary, rotary_table
from vivavoce.speech.llm.turns import PAGE, PAGES, Turns, turn

FREQUENCIES = 10000.0 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)


def test_it_is_rotary_embedding() -> None:
    x, index = torch.randn(40, 3, 16, dtype=torch.float64), torch.arange(40) * 7
    expected = rotary(x, rotary_table(FREQUENCIES, 300), index)
    torch.testing.assert_close(turn(x, Turns(FREQUENCIES, torch.float64)(index)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("start", [0, 4_000_000, 2**40, 2**62])
def test_only_differences_matter_at_any_index(start: int) -> None:
    q, k = torch.randn(2, 1, 1, 16, dtype=torch.float64)
    turns = Turns(FREQUENCIES, torch.float64)

    def score(a: int, b: int) -> torch.Tensor:
        return (turn(q, turns(torch.tensor([a]))) * turn(k, turns(torch.tensor([b])))).sum()

    torch.testing.assert_close(score(start + 1000, start + 10), score(990, 0), rtol=0, atol=1e-12)


def test_low_precision_comes_back_as_it_went_in() -> None:
    x = torch.randn(2, 1, 16, dtype=torch.bfloat16)
    assert turn(x, Turns(FREQUENCIES, torch.float32)(torch.tensor([3, 4]))).dtype == torch.bfloat16


@pytest.mark.parametrize("known", [[0, 5, PAGE - 1], [7, 7], [PAGE - 1, PAGE], [4_000_000, 4_000_001]])
def test_what_is_tabulated_is_what_is_computed(known: list[int]) -> None:
    turns, index = Turns(FREQUENCIES, torch.float64), torch.tensor(known)
    expected = torch.cat(turns(index), 1)
    for found, wanted in ((turns.near(index, known), expected), (turns.near(known[0]), expected[:1])):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    assert torch.equal(turns.near(index), expected)


def test_of_a_session_without_end_a_few_tables_stay() -> None:
    turns = Turns(FREQUENCIES, torch.float64)
    for page in range(3 * PAGES):
        expected = torch.cat(turns(torch.tensor([page * PAGE + 3])), 1)
        torch.testing.assert_close(turns.near(page * PAGE + 3), expected, rtol=0, atol=1e-14)
    assert len(turns._pages) <= PAGES
