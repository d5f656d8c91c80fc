"""`vivavoce bench asr`: equal before it is timed, every figure in its row, and JSON that is only JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from vivavoce.recipes.bench import asr
from vivavoce.recipes.bench.asr import Plan, bench_asr, large_rows, main
from vivavoce.recipes.bench.report import Different, Row
from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.nn import packed
from vivavoce.speech.nn.encoder import EncoderConfig
from vivavoce.speech.nn.packed import PRECISIONS, supported

SUPPORTED = supported()
SMALL = EncoderConfig(width=16, layers=2, heads=2, hidden=24, channels=4)
TINY = Plan(chunks=(1, 7), chunks_of_many=(2,), batches=(1, 2), seconds=0.0, repeats=1, recording=2, recordings=(1,),
            config=SMALL, large=SMALL, streams=(1, 3), most=5)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return bench_asr(TINY)


def test_every_case_has_every_precision_and_one_is_best(rows: list[Row]) -> None:
    for case in ("step, 80 ms chunks, batch 1", "step, 560 ms chunks, batch 1", "step, 160 ms chunks, batch 2",
                 "offline, 2 s, batch 1"):  # fmt: skip
        mine = [row for row in rows if f"encoder {case}," in row.case and "alone" not in row.case]
        assert [p for row in mine for p in PRECISIONS if p in row.case] == SUPPORTED
        assert sum("best" in row.case for row in mine) == 1
    assert len({p for row in rows for p in PRECISIONS if f"{p} (best)" in row.case}) == 1


def test_ratios_are_above_one_where_ours_is_better(rows: list[Row]) -> None:
    for row in rows:
        assert row.ours > 0
        assert row.theirs > 0
        assert row.ratio == pytest.approx(row.theirs / row.ours)


def test_outputs_are_theirs(rows: list[Row]) -> None:
    bounds = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.2}
    compared = [row for row in rows if row.difference is not None]
    assert len(compared) == 4 * len(SUPPORTED)
    for row in compared:
        assert row.difference is not None
        assert row.difference <= next(bound for p, bound in bounds.items() if p in row.case)


def test_steps_stand_beside_their_linears_alone(rows: list[Row]) -> None:
    alone = [row for row in rows if "its linears alone" in row.case]
    assert len(alone) == 3 * len(SUPPORTED)
    assert not any("best" in row.case for row in alone)


def test_the_rows_of_a_gpu_run_on_a_cpu_too() -> None:
    *steps, streams = large_rows(TINY, "cpu")
    assert [row.case for row in steps] == [f"0.6 B encoder, cpu, bfloat16, step of 320 ms, batch {n}" for n in (1, 3)]
    for row in steps:
        assert row.ratio == pytest.approx(row.theirs / row.ours)
        assert row.difference is not None
        assert row.difference < 0.1
    assert streams.unit == "streams"
    assert 0 <= streams.ours <= 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="rows of a GPU; the test before makes them on a CPU")
def test_on_a_gpu_its_rows_follow() -> None:
    assert any("cuda, bfloat16" in row.case for row in bench_asr(TINY))


@pytest.mark.parametrize(("most", "bears", "expected"), [(64, 100, 64), (512, 100, 96), (512, 7, 7), (8, 0, 0)])
def test_streams_in_real_time_are_found_to_an_eighth(
    most: int, bears: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def step(n: int) -> Callable[[], None]:
        if n > 4 * bears + 4:
            raise torch.cuda.OutOfMemoryError("no more")
        asked.append(n)
        return lambda: None

    monkeypatch.setattr(asr, "in_turn", lambda calls, *_: [320.0 if asked[-1] <= bears else 321.0 for _ in calls])
    assert asr.in_real_time(replace(TINY, most=most), step) == expected


def test_quick_measures_the_smaller_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[Plan] = []
    monkeypatch.setattr(asr, "bench_asr", lambda plan: given.append(plan) or [])  # type: ignore[func-returns-value]
    assert main(["--quick", "--json"]) == 0
    assert capsys.readouterr().out == '{"rows": []}\n'
    assert main([]) == 0
    assert given == [asr.QUICK, Plan()]


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match="pip install"):
        bench_asr(TINY)


def test_unequal_outputs_are_not_timed() -> None:
    with pytest.raises(Different, match=r"case: in fp32 the outputs differ by 2\.0e-04"):
        asr.check("case", {"fp32": 2e-4, "fp16": 1e-2})
    with pytest.raises(Different):
        asr.check("case", {"fp32": float("nan")})


def test_a_precision_this_cpu_lacks_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packed, "supported", lambda: ["fp32"])
    assert list(asr.build(TINY.config).ours) == ["fp32"]
    assert "fp16 is left out" in capsys.readouterr().err
