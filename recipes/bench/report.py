"""What the benchmarks share: rows that compare ours with theirs, contenders timed in turn, a table or JSON at the end.

A benchmark is a file here with its own plans and a `main` that hands `run` a function from (quick) to rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table

from vivavoce.streaming.errors import VivaVoceError


class Different(VivaVoceError):
    """Ours and the peer's do not give the same, so their times cannot be compared."""


@dataclass(frozen=True)
class Row:
    """ratio: above 1 where ours is better; difference: largest |ours - theirs| over the largest |theirs|, in output."""

    case: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    difference: float | None = None


def run(name: str, about: str, measure: Callable[[bool], list[Row]], argv: Sequence[str] | None = None) -> int:
    """`vivavoce bench NAME`: parse, measure(quick), print. Exit code: 0, or 2 for bad usage."""
    parser = argparse.ArgumentParser(prog=f"vivavoce bench {name}", description=about)
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: within 50 s on 2 cores")
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]} and nothing else')
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of the CPU (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error("--threads must be at least 1")
    with threads(args.threads):
        rows = measure(args.quick)
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
    else:
        Console().print(table(rows, f"vivavoce bench {name}, {args.threads} CPU threads"))
    return 0


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def table(rows: Sequence[Row], title: str) -> Table:
    out = Table("case", "ours", "theirs", "unit", "ratio", "max |Δ|", title=title)
    for row in rows:
        style = "bold" if "best" in row.case else None
        difference = "" if row.difference is None else f"{row.difference:.0e}"
        out.add_row(
            row.case, f"{row.ours:.1f}", f"{row.theirs:.1f}", row.unit, f"{row.ratio:.2f}", difference, style=style
        )
    return out


def in_turn(calls: Sequence[Callable[[], object]], seconds: float, repeats: int) -> list[float]:
    """Median milliseconds of each, measured round by round so that a busy moment of the machine meets all alike: for
    `seconds` in all, and `repeats` rounds at least."""
    taken: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while len(taken[0]) < repeats or time.perf_counter() < end:
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(times) for times in taken]
