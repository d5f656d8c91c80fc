"""Tables in the documentation, written by command from what was measured.

`vivavoce evaluate … --json | python -P -m vivavoce.recipes.tables README.md results` replaces what stands between the
markers `<!-- results:begin -->` and `<!-- results:end -->`; `vivavoce bench … --json` is read the same way.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivavoce.speech.errors import BadConfig


def evaluation(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown lines of `evaluate --json`: a row a set and lookahead, errors in per cent, delays in ms."""
    lines = [
        "| set | lookahead | WER % | CER % | sub / del / ins of words | delay p50 / p95 | × real time |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        delay = r["emission_delay_ms"]
        lines.append(
            f"| {r['set']} | {_ms(r['lookahead_ms'])} | {_percent(r['wer'])} | {_percent(r['cer'])} | "
            f"{r['substituted']} / {r['deleted']} / {r['inserted']} of {r['words']} | "
            f"{_ms(delay['p50'])} / {_ms(delay['p95'])} | {r['rtfx']:.0f} |"
        )
    return lines


def benchmark(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown lines of `bench --json`."""
    lines = ["| case | ours | theirs | unit | ratio | output differs by |", "|---|---|---|---|---|---|"]
    for r in rows:
        difference = r.get("difference")
        lines.append(
            f"| {r['case']} | {r['ours']:.3g} | {r['theirs']:.3g} | {r['unit']} | {r['ratio']:.2f} | "
            f"{'' if difference is None else f'{difference:.0e}'} |"
        )
    return lines


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.1f}"


def _ms(value: float | str | None) -> str:
    return "–" if value is None else (value if isinstance(value, str) else f"{value:.0f} ms")


def replace(text: str, name: str, lines: list[str], where: str = "the document") -> str:
    """The document with the lines between its two markers. Raises BadConfig when it does not have both, once."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise BadConfig(f"{where}: needs one {begin} and, after it, one {end}")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{chr(10).join(lines)}\n{end}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tables", description="Put measured figures, as JSON on stdin, into a document."
    )
    parser.add_argument("document", type=Path)
    parser.add_argument("name", help="of the markers <!-- NAME:begin --> and <!-- NAME:end -->")
    args = parser.parse_args(argv)
    rows = json.load(sys.stdin)["rows"]
    lines = evaluation(rows) if rows and "wer" in rows[0] else benchmark(rows)
    args.document.write_text(replace(args.document.read_text(), args.name, lines, str(args.document)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
