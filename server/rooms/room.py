"""A room: one thread that owns one model and steps it for every session inside.

Calls come in from sockets as messages; results leave through each session's own `sink`, called on the room's thread. So
no socket touches a tensor, and no model needs a lock. The rooms of each model (hearing, voice, speaking) build on this.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self, TypeVar

from vivavoce.streaming.errors import Full

log = logging.getLogger(__name__)
T = TypeVar("T")


class Busy(Full):
    """A room that takes nobody more just now. retry_after: seconds after which it is worth asking again."""

    def __init__(self, message: str, retry_after: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Closed(Full):
    """The server is going down and takes no new session."""

    retry_after = 10.0


@dataclass(frozen=True)
class Step:
    """One batched step of a model, for the metrics: sessions in it, seconds it took, seconds the most urgent result
    came after its input was there."""

    room: str
    rows: int
    seconds: float
    lag: float = 0.0


class Turns:
    """`with turns:` one thread at a time, first come first served.

    Two threads that both run small models hand the interpreter back and forth at every operation, which costs each of
    them as much again as its own work; a room that waits for another's step loses less.
    """

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._next = self._now = 0

    def __enter__(self) -> bool:
        """Whether somebody else had to finish first."""
        with self._news:
            mine, self._next = self._next, self._next + 1
            waits = self._now != mine
            self._news.wait_for(lambda: self._now == mine)
        return waits

    @property
    def asked(self) -> int:
        """How many have asked for a turn and not finished it."""
        return self._next - self._now

    def __exit__(self, *exc: object) -> None:
        with self._news:
            self._now += 1
            self._news.notify_all()


class Room(ABC):
    """The thread. A subclass says what one batched step is (`tick`) and puts calls on the thread with `post`.

    gather: seconds to wait, once there is work, for other sessions to join the step; now: the clock, in seconds; turns:
    shared by rooms of which only one is to step at a time; breath: seconds to wait after another's turn, for what it
    found out to arrive.
    """

    breath = 0.0

    def __init__(self, name: str, places: int, *, gather: float = 0.0, now: Callable[[], float] = time.monotonic,
                 observe: Callable[[Step], None] = lambda step: None, turns: Turns | None = None) -> None:  # fmt: skip
        self.name, self.places, self.gather, self.now, self.observe = name, places, gather, now, observe
        self.turns = turns or Turns()
        self._news = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._taken = 0
        self._stopping = False
        self._ending = threading.Event()  # the same, for who waits for nothing else
        self._thread: threading.Thread | None = None

    @abstractmethod
    def tick(self) -> bool:
        """One batched step on the room's thread; False when nobody had work."""

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._taken

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._run, name=f"room {self.name}", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the thread after what it is doing; sessions still inside get nothing more. May be called twice."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def enter(self) -> None:
        """Take a place. Raises Busy, with a hint when to try again, or Closed."""
        with self._news:
            if self._stopping:
                raise Closed(f"the {self.name} room is closing; connect again in a moment")
            if self._taken >= self.places:
                raise Busy(f"all {self.places} places for {self.name} are taken; try again in a few seconds")
            self._taken += 1

    def leave(self) -> None:
        """Give a place back; on the room's thread, when the model has let go of the session."""
        with self._news:
            self._taken -= 1

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` on the room's thread before its next step."""
        with self._news:
            self._inbox.append(call)
            self._news.notify()

    def ask(self, call: Callable[[], T]) -> Future[T]:
        """The same for a call whose result, or error, somebody waits for."""
        future: Future[T] = Future()

        def answer() -> None:
            try:
                future.set_result(call())
            except Exception as e:
                future.set_exception(e)

        self.post(answer)
        return future

    def _run(self) -> None:
        worked = False
        while not self._stopping:
            with self._news:
                while not (self._inbox or worked or self._stopping):
                    self._news.wait()
            if self.gather and not worked:
                self._ending.wait(self.gather)
            with self.turns as waited:
                if self.breath and waited:
                    self._ending.wait(self.breath)
                self._answer()
                worked = not self._stopping and bool(self._guarded(self.tick))
        self._answer()  # so that no future waits for ever

    def _answer(self) -> None:
        """Carry out what was posted."""
        with self._news:
            calls, self._inbox = self._inbox, []
        for call in calls:
            self._guarded(call)

    def _guarded(self, call: Callable[[], T]) -> T | None:
        """A fault in one call must not take the thread, and with it every session, down."""
        try:
            return call()
        except Exception:
            log.exception("the %s room went on after a fault", self.name)
            return None
