"""What every benchmark prints: a table, or JSON that is only JSON; and how contenders are timed."""

from __future__ import annotations

import json

import pytest
import torch

from vivavoce.recipes.bench.report import Row, in_turn, run

ROW = Row("encoder, fp16 (best)", 10.0, 35.0, "ms", 3.5, 1e-3)


def test_json_is_only_json(capsys: pytest.CaptureFixture[str]) -> None:
    given: list[tuple[bool, int]] = []

    def measure(quick: bool) -> list[Row]:
        given.append((quick, torch.get_num_threads()))
        return [ROW]

    before = torch.get_num_threads()
    assert run("tea", "Tea.", measure, ["--quick", "--json", "--threads", "3"]) == 0
    assert torch.get_num_threads() == before
    out = json.loads(capsys.readouterr().out)
    assert out == {"rows": [{"case": "encoder, fp16 (best)", "ours": 10.0, "theirs": 35.0, "unit": "ms", "ratio": 3.5,
                             "difference": 1e-3}]}  # fmt: skip
    assert run("tea", "Tea.", measure, []) == 0
    assert "3.50" in capsys.readouterr().out
    assert given == [(True, 3), (False, 2)]


@pytest.mark.parametrize("argv", [["tea"], ["--threads", "0"], ["--slow"]])
def test_bad_usage_exits_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        run("tea", "Tea.", lambda _quick: [], argv)
    assert e.value.code == 2
    assert "usage: vivavoce bench tea" in capsys.readouterr().err


def test_contenders_take_turns() -> None:
    order: list[str] = []
    times = in_turn([lambda: order.append("a"), lambda: order.append("b")], seconds=0, repeats=3)
    assert order == ["a", "b"] * 4  # the first round only warms up
    assert len(times) == 2
    assert min(times) >= 0
