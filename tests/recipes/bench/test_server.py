"""The benchmark of the server: its rows from levels, and one small ramp over real sockets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from vivavoce.recipes.bench import server
from vivavoce.recipes.bench.report import Different
from vivavoce.server.encode import pcm16
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.checkpoint import Loaded


def level(callers: int, p95: float, held: bool) -> dict[str, float]:
    return {"callers": callers, "p50": 0.6, "p95": p95, "refused": 0, "held": held}


def test_rows_compare_what_held_and_the_levels_both_had() -> None:
    ours = [level(8, 0.6, True), level(16, 0.7, True), level(32, 2.0, False), level(64, math.inf, False)]
    theirs = [level(4, 0.7, True), level(8, 1.8, False)]
    most, *delays = server.rows(ours, theirs)
    assert (most.ours, most.theirs, most.ratio) == (16, 4, 4.0)
    assert [row.case for row in delays] == ["p95 delay, 8 sessions", "p95 delay, 16 sessions, theirs with 8",
                                            "p95 delay, 32 sessions, theirs with 8"]  # fmt: skip
    assert delays[0].ratio == pytest.approx(3.0)
    assert all(math.isfinite(row.ratio) for row in delays)  # as JSON has to be


def test_speech_is_there_without_any_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIVAVOCE_DATA", str(tmp_path))
    pcm = server.speech()
    assert len(pcm) > 3 * 16000
    assert np.abs(pcm).max() > 0.1


def test_one_caller_is_served_and_counted(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVAVOCE_DATA", str(tmp_path))
    (tmp_path / "speech.pcm").write_bytes(pcm16(server.speech()))

    def make(slots: int) -> Recognizer:
        return Recognizer(loaded.model, loaded.tokenizer, slots=slots)

    with server.serving(make, 2, None) as address:
        levels = server.ramp(address, tmp_path / "speech.pcm", hold=1.0, first=1, most=1, budget=0.0)
    assert [one["callers"] for one in levels] == [1]
    assert levels[0]["refused"] == 0
    with pytest.raises(Different, match="callers failed"):
        server.ramp("nowhere", tmp_path / "missing", hold=0.1, first=1, most=1, budget=0.0)
