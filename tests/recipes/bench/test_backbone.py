"""`vivavoce bench backbone`: equal before it is timed, every case in its row."""

from __future__ import annotations

import sys

import pytest
import torch

from vivavoce.recipes.bench import backbone
from vivavoce.recipes.bench.backbone import WAYS, Plan, bench_backbone, large_rows, main, same, shape
from vivavoce.recipes.bench.report import Different, Row
from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.nn.packed import supported

SMALL = {"tiny": shape(16, 2, 4, 2, 24, 50)}
TINY = Plan(windows=(16, 80), ages=(4_000_000,), batches=(1, 3), prompt=7, tokens=5, seconds=0.0, repeats=1,
            recomputed=SMALL, generating=SMALL, large=SMALL)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return bench_backbone(TINY)


def test_every_window_and_batch_has_its_row(rows: list[Row]) -> None:
    theirs = [f"tiny: tokens a second, batch {n}, against transformers generate" for n in (1, 3)]
    ways = [way for way, precision in WAYS.items() if precision in supported()]
    assert [row.case for row in rows] == [
        "tiny: a token at window 16, against recompute",
        "tiny: a token at window 80, against recompute",
        "tiny: after 4,000,000 tokens, against 1,000: a token",
        "tiny: after 4,000,000 tokens, against 1,000: state",
        *(f"tiny: keys and values of a session of 16 tokens in {kept}, against float32" for kept in ("int8", "fp8")),
        *(case + way for case in theirs for way in ways),
    ]


def test_ratios_are_above_one_where_ours_is_better(rows: list[Row]) -> None:
    for row in rows[:2]:
        assert row.ratio == pytest.approx(row.theirs / row.ours)
        assert row.difference is not None
        assert row.difference < 1e-5
    assert rows[2].difference is not None
    assert rows[2].difference < 1e-5
    assert rows[3].ratio == 1
    for row in rows[4:6]:
        assert row.ratio == pytest.approx(row.theirs / row.ours)
        assert row.ratio > 2
        assert row.difference is not None
        assert 0 < row.difference < 0.2
    for row in rows[6:]:
        assert row.ratio == pytest.approx(row.ours / row.theirs)


def test_the_rows_of_a_gpu_run_on_a_cpu_too() -> None:
    found, packed = large_rows(TINY, "cpu"), [way for way, precision in WAYS.items() if precision in supported()]
    ways = {"float32": packed, "bfloat16": [""]}
    assert [row.case for row in found] == [
        f"tiny, cpu, {dtype}: {case}"
        for dtype in ("float32", "bfloat16")
        for case in [
            *(
                f"a token at window {n}, against {other}"
                for n in (16, 80)
                for other in ("recompute", "reading all weights")
            ),
            *(f"tokens a second, batch {n}, against transformers generate{way}" for n in (1, 3) for way in ways[dtype]),
        ]
    ]
    for row in found:
        assert row.ratio == pytest.approx(row.theirs / row.ours if row.unit == "ms" else row.ours / row.theirs)
    assert all(row.difference < 8e-2 for row in found if row.difference is not None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="rows of a GPU; the test before makes them on a CPU")
def test_on_a_gpu_its_rows_follow() -> None:
    assert any("cuda, bfloat16" in row.case for row in bench_backbone(TINY))


def test_unequal_tokens_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "replies", lambda _, prompts, tokens: [[0] * tokens for _ in prompts])
    with pytest.raises(Different, match="greedy tokens differ"):
        bench_backbone(TINY)
    monkeypatch.setattr(backbone, "last_again", lambda model, _, tokens: torch.ones(1, 16))
    with pytest.raises(Different, match="scores differ"):
        bench_backbone(TINY)


@pytest.mark.parametrize(("gap", "expected"), [(1e-5, True), (1e-3, False)])
def test_tokens_may_differ_only_from_where_two_are_as_good(gap: float, expected: bool) -> None:
    config = shape(16, 2, 4, 2, 24, 50)
    decoder = Decoder(config).requires_grad_(False)
    scores = decoder.double().logits(decoder(torch.tensor([[1, 2, 3]]))[0, -1])
    best = int(scores.argmax())
    other = (best + 1) % 50
    head = torch.nn.Linear(config.width, 50, dtype=torch.float64).requires_grad_(False)
    head.weight.copy_(decoder.embed.weight)
    head.bias.zero_()
    head.bias[other] = scores[best] - scores[other] - gap
    decoder.head = head
    decoder.float()
    assert same(decoder, [1, 2], [3, best, 7], [3, other, 9]) == expected
    assert same(decoder, [1, 2], [3, other, 7], [3, best, 9]) == expected
    assert same(decoder, [1, 2], [3, 4], [3, 4])


def test_quick_measures_the_smaller_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[Plan] = []
    monkeypatch.setattr(backbone, "bench_backbone", lambda plan: given.append(plan) or [])  # type: ignore[func-returns-value]
    assert main(["--quick", "--json"]) == 0
    assert main(["--json"]) == 0
    assert given == [backbone.QUICK, Plan()]
    assert capsys.readouterr().out == '{"rows": []}\n' * 2


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match="pip install"):
        bench_backbone(TINY)
