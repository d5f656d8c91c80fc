"""Measured figures go between the markers, and nowhere else."""

import io
import json
from pathlib import Path

import pytest

from vivavoce.recipes import tables
from vivavoce.speech.errors import BadConfig

EVALUATED = {
    "set": "tones",
    "lookahead_ms": 480,
    "wer": 0.25,
    "cer": None,
    "substituted": 1,
    "deleted": 2,
    "inserted": 0,
    "words": 12,
    "emission_delay_ms": {"p50": 312.4, "p95": None},
    "rtfx": 41.7,
}
TIMED = {"case": "80 ms", "ours": 10.0, "theirs": 30.0, "unit": "ms", "ratio": 3.0, "difference": 2e-6}


def test_only_what_stands_between_the_markers_changes() -> None:
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n<!-- y:begin -->\nkept\n<!-- y:end -->\n"
    new = tables.replace(text, "x", ["1", "2"])
    assert new == text.replace("old", "1\n2")
    assert tables.replace(new, "x", ["1", "2"]) == new


@pytest.mark.parametrize("text", ["", "<!-- x:begin -->", "<!-- x:begin --><!-- x:begin --><!-- x:end -->"])
def test_a_document_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="x:begin"):
        tables.replace(text, "x", [])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (EVALUATED, "| tones | 480 ms | 25.0 | – | 1 / 2 / 0 of 12 | 312 ms / – | 42 |"),
        (TIMED, "| 80 ms | 10 | 30 | ms | 3.00 | 2e-06 |"),
    ],
)
def test_rows_become_lines(
    row: dict[str, object], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "d.md"
    document.write_text("<!-- r:begin -->\n<!-- r:end -->\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"rows": [row]})))
    assert tables.main([str(document), "r"]) == 0
    assert expected in document.read_text().splitlines()
