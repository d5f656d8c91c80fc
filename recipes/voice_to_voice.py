"""`vivavoce agent --measure N`: the delay of spoken replies, from the user's last sample to the agent's first.

Questions that espeak-ng speaks go up the socket in real time, as from a microphone; the reply's first sound is timed by
this side's clock, and the stages before it are the server's own account.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from vivavoce.recipes.agent import NoServer, connected, session
from vivavoce.recipes.data.voices import RATE as VOICE_RATE
from vivavoce.recipes.data.voices import Voice, say
from vivavoce.recipes.duplex import RATE, Duplex, Output, Play, Stages, Trouble
from vivavoce.speech.audio import RateConverter

QUESTIONS = (
    "hello, how are you today?", "what is your name?", "can you help me with something?", "what time is it?",
    "tell me something nice, please.", "how is the weather?", "what can you do?", "thank you very much.",
)  # fmt: skip
SILENCE = 300  # ms that end a turn
BLOCK = 480  # 20 ms
PATIENCE = 15.0  # seconds for a reply to begin
QUIET = 1.0  # seconds between a reply's last sound and the next question


@dataclass(frozen=True)
class Turn:
    """total: ms from the question's last sample to the answer's first, by the client's clock; stages: the server's."""

    total: float
    stages: dict[str, float]


def spoken(text: str) -> NDArray[np.int16]:
    """(n,) at 24 kHz, up to the last sound. Raises MissingDependency without espeak-ng."""
    pcm = say(text, Voice("espeak-ng", "en-us", 50, 50, 150, 0.5))
    loud = np.flatnonzero(np.abs(pcm) > 0.01)
    convert = RateConverter(VOICE_RATE, RATE)
    return (convert.push(pcm[: loud[-1] + 1], last=True) * 32767).round().astype(np.int16)


class Caller:
    """Speaks questions into a conversation and times the answers."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._duplex = socket, Duplex()
        self._outputs: queue.SimpleQueue[tuple[float, Output] | None] = queue.SimpleQueue()  # None: the server left
        self._due = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, question: NDArray[np.int16]) -> Turn:
        """Raises NoServer when no answer comes."""
        for start in range(0, len(question), BLOCK):
            self._send(question[start : start + BLOCK])
        asked, first, sound, stages = self._due, None, 0, dict[str, float]()
        while self._due < (asked + PATIENCE if first is None else first + sound / RATE + QUIET):
            self._send(np.zeros(BLOCK, np.int16))
            for at, output in self._new():
                if isinstance(output, Play):
                    first, sound = first or at, sound + len(output.pcm)
                elif isinstance(output, Stages):
                    stages = dict(output.stages)
                elif isinstance(output, Trouble):
                    raise NoServer(f"the server could not answer: {output.message}")
        if first is None:
            raise NoServer(f"no answer within {PATIENCE:.0f} s; is there a voice, and a model that replies?")
        return Turn((first - asked) * 1000, stages)

    def _send(self, block: NDArray[np.int16]) -> None:
        """In real time: the block is over when it is sent."""
        self._due += len(block) / RATE
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._socket.send(block.astype("<i2").tobytes())

    def _new(self) -> list[tuple[float, Output]]:
        found = []
        while not self._outputs.empty():
            if (output := self._outputs.get()) is None:
                raise NoServer("the server ended the conversation; see what it says, and start again")
            found.append(output)
        return found

    def _listen(self) -> None:
        try:
            for message in self._socket:
                at = time.monotonic()
                for output in self._duplex.receive(json.loads(message), playing=False):
                    self._outputs.put((at, output))
        except ConnectionClosed:
            pass
        self._outputs.put(None)


def measure(url: str, turns: int, lookahead: int, key: str | None = None) -> list[Turn]:
    """So many questions in one conversation, after one that warms up. Raises NoServer, MissingDependency."""
    questions = [spoken(text) for text in QUESTIONS]
    with connected(url, key) as socket:
        turn_detection = {"type": "server_vad", "silence_duration_ms": SILENCE}
        socket.send(json.dumps(session(lookahead, turn_detection)))
        caller = Caller(socket)
        return [caller.ask(q) for q in itertools.islice(itertools.cycle(questions), turns + 1)][1:]


def table(turns: Sequence[Turn]) -> str:
    """A row a stage: its median and 95th percentile in ms; after the turn: all but the silence and the wait that told
    that it was over."""
    names = list(dict.fromkeys(name for turn in turns for name in turn.stages))
    rows = [(name, [turn.stages[name] for turn in turns if name in turn.stages]) for name in names]
    known = [turn.total - turn.stages.get("silence", 0) - turn.stages.get("turn", 0) for turn in turns]
    rows += [("after the turn", known), ("voice to voice", [turn.total for turn in turns])]
    lines = [f"{name:16} {np.percentile(ms, 50):7.0f} {np.percentile(ms, 95):7.0f}" for name, ms in rows]
    return "\n".join([f"{'ms':16} {'p50':>7} {'p95':>7}   of {len(turns)} turns", *lines])
