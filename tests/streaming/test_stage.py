"""What a stage promises, shown on the toy stages that the other tests of this folder lean on."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from toys import Even, Groups, Sum, toy_chain

from vivavoce.streaming.stage import Stage, StageSpec

STAGES: list[Stage[Any, Any, Any]] = [Sum(), Groups(2, 1), Even(), toy_chain()]


@pytest.mark.parametrize(("lookahead", "items"), [(0, 8), (1, 16), (69, 560)])
def test_a_chunk_grows_with_the_lookahead(lookahead: int, items: int) -> None:
    assert StageSpec(Fraction(100), Fraction(25, 2), chunk=8, head=7).chunk_items(lookahead) == items


def test_a_stage_without_chunks_has_chunks_of_nothing() -> None:
    assert StageSpec(Fraction(16000), Fraction(100)).chunk_items(5) == 0


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: type(s).__name__)
def test_an_idle_row_keeps_its_state(stage: Stage[Any, Any, Any]) -> None:
    state = stage.init_state(3)
    no, nobody = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
    stage.step(torch.arange(1, 13).reshape(3, 4), state, no + 4, nobody, 0)
    before = {name: leaf[1].clone() for name, leaf in state.leaves()}
    stage.step(torch.full((3, 4), 9), state, torch.tensor([4, 0, 2]), torch.tensor([False, False, True]), 0)
    for name, leaf in state.leaves():
        if not name.endswith("items"):  # what lies beyond a queue's count means nothing
            assert torch.equal(leaf[1], before[name]), name


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: type(s).__name__)
def test_every_leaf_of_a_state_has_one_row_a_slot(stage: Stage[Any, Any, Any]) -> None:
    assert {leaf.shape[0] for _, leaf in stage.init_state(5).leaves()} == {5}
