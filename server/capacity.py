"""How many live sessions this machine holds: measured when the server starts, by what a full step costs.

Chunks of noise go through recognisers of more and more slots, until a step of all of them takes too much of the time
in which the next chunk is said. What comes out is how many places the hearing room offers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from vivavoce.speech.asr.recognizer import Recognizer

LOOKAHEAD = 6  # frames: what sessions are reckoned at
SHARE = 0.6  # of a chunk's time that a step of everybody may take; the rest is for voices, sockets and bad moments
ROUNDS = 3


def measured(
    recognizer: Callable[[int], Recognizer],
    most: int = 256,
    *,
    lookahead: int = LOOKAHEAD,
    now: Callable[[], float] = time.perf_counter,
) -> int:
    """The most sessions, 1 to `most`, whose chunks at this lookahead can all be computed in `SHARE` of their time.

    Doubles until it is too much, and takes what lies between on a straight line: a step costs so much for itself and so
    much a session.
    """
    before, slots = (0, 0.0), 1
    while True:
        seconds, allowed = step_seconds(recognizer(slots), lookahead, now)
        if seconds > allowed:
            break
        if slots == most:
            return most
        before, slots = (slots, seconds), min(2 * slots, most)
    fewer, cost = before
    if not fewer:
        return 1
    return fewer + int((slots - fewer) * (allowed - cost) / (seconds - cost))


def step_seconds(recognizer: Recognizer, lookahead: int, now: Callable[[], float]) -> tuple[float, float]:
    """Seconds a step of one chunk of every slot takes, and how many it may."""
    slots = [recognizer.open(lookahead=lookahead) for _ in range(recognizer.engine.free)]
    samples = recognizer.clock.chunk_samples(lookahead)
    chunk = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    taken = []
    for _ in range(1 + ROUNDS):  # the first warms up
        began = now()
        recognizer.step(dict.fromkeys(slots, chunk))
        taken.append(now() - began)
    return statistics.median(taken[1:]), SHARE * recognizer.clock.seconds(samples)
