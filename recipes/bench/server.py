"""`vivavoce bench server`: how many people this machine can listen to at once.

A server in this process, callers in another (`callers.py`) who talk at the speed of speech over real sockets. Sessions
batched in one step are compared with the same server, same model, stepping one session at a time.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from numpy.typing import NDArray

from vivavoce.recipes import sample
from vivavoce.recipes.bench.report import Different, Row, run
from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.voices import RATE, say
from vivavoce.recipes.options import CLOCK, MODEL, lay_out
from vivavoce.recipes.serve import share_processors, threaded
from vivavoce.server import app
from vivavoce.server.encode import pcm16
from vivavoce.server.house import House
from vivavoce.speech import audio, checkpoint
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.vad import Vad

ABOUT = """How many live transcription sessions hold: callers who talk at the speed of speech are added until the 95th
percentile of the delay is over 1 s. The delay of a chunk is that of its first sound: from when it was said to when its
words are with the caller, 572.5 ms of lookahead and chunk included. ours: all sessions in one step; theirs: the same
server stepping one session at a time. Speech is real where VIVAVOCE_DATA has ljspeech, else espeak-ng's."""
LOOKAHEAD = 6  # 480 ms
DEADLINE = 1.0  # seconds
SECONDS = 60.0  # of speech, said over and over


def speech() -> NDArray[np.float32]:
    """About a minute of it at 16 kHz."""
    parts = list[NDArray[np.float32]]()
    folder = Path(os.environ.get("VIVAVOCE_DATA", "data")) / "speech" / "ljspeech"
    if (folder / "manifest.tsv").is_file():
        for utterance in manifest.load(folder / "manifest.tsv"):
            parts.append(audio.read(utterance.path, RATE).numpy())
            if sum(map(len, parts)) > SECONDS * RATE:
                break
    else:
        parts = [np.pad(say(sample.SENTENCE, sample.VOICE), RATE // 10)]
    return np.concatenate(parts)


@contextmanager
def serving(recognizer: Callable[[int], Recognizer], places: int, batch: int | None) -> Iterator[str]:
    """A server in threads of this process; yields its address."""
    house = House.build(MODEL, recognizer, Vad.load(), places=places, uploads=1, batch=batch)
    application = app.build(house)
    settings = uvicorn.Config(
        application,
        port=0,
        log_level="warning",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_timeout=None,
    )
    with threaded(settings, application.state.realtime) as address:
        yield address.removeprefix("http://")


def ramp(address: str, pcm: Path, hold: float, first: int, most: int, budget: float) -> list[dict[str, Any]]:
    """The callers' levels, see `callers.Level`."""
    chunk = CLOCK.seconds(CLOCK.worst_delay(LOOKAHEAD))
    words = [address, pcm, chunk, DEADLINE, hold, first, most, budget]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "vivavoce.recipes.bench.callers", *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Different(f"the callers failed: {done.stderr.strip().splitlines()[-1:]}; VIVAVOCE_DEBUG=1 says more")
    levels: list[dict[str, Any]] = json.loads(done.stdout)
    return levels


def measure(quick: bool) -> list[Row]:
    """Both ramps, one after the other."""
    loaded = checkpoint.load(MODEL, device="cuda" if torch.cuda.is_available() else "cpu")
    lay_out(loaded.model.encoder, "auto")  # as `serve` does
    share_processors(loaded.model)

    def recognizer(slots: int) -> Recognizer:
        return Recognizer(loaded.model, loaded.tokenizer, slots=slots, lm=loaded.lm)

    hold, budget = (2.0, 19.0) if quick else (10.0, 150.0)
    most = 512 if torch.cuda.is_available() else 128
    with tempfile.TemporaryDirectory() as folder:
        pcm = Path(folder) / "speech.pcm"
        pcm.write_bytes(pcm16(speech()))
        with serving(recognizer, most, None) as address:
            ours = ramp(address, pcm, hold, 16, most, budget)
        with serving(recognizer, most, 1) as address:
            theirs = ramp(address, pcm, hold, 4, most, budget)
    return rows(ours, theirs)


def rows(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> list[Row]:
    """The most sessions that held, and the delay of each of our levels beside that of theirs with as many sessions, or
    with the most they were tried with that are no more."""
    a, b = (max((level["callers"] for level in levels if level["held"]), default=0) for levels in (ours, theirs))
    case = f"live sessions at 480 ms lookahead, p95 delay within {DEADLINE:g} s (best)"
    out = [Row(case, a, b, "sessions", a / max(b, 1))]
    for level in sorted(ours, key=lambda level: level["callers"]):
        n, p95 = level["callers"], level["p95"]
        other = max((o for o in theirs if o["callers"] <= n), key=lambda o: o["callers"], default=None)
        if other and math.isfinite(p95) and math.isfinite(other["p95"]):  # infinite: not a word came
            beside = "" if other["callers"] == n else f", theirs with {other['callers']}"
            out.append(Row(f"p95 delay, {n} sessions{beside}", 1e3 * p95, 1e3 * other["p95"], "ms", other["p95"] / p95))
    return out


def main(argv: Sequence[str] | None = None) -> int:
    return run("server", ABOUT, measure, argv)
