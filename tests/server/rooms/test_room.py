"""The thread of a room: calls run on it in order, a fault takes nobody down, stopping answers everybody."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import pytest

from vivavoce.server.rooms.room import Busy, Closed, Room, Turns


@dataclass
class Counting(Room):
    """Works off a number, one a tick."""

    work: int = 0
    ticks: int = 0
    fault_at: int = 0
    threads: set[str] = field(default_factory=set)
    done: threading.Event = field(default_factory=threading.Event)
    shared: Turns | None = None
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__("counting", 2, turns=self.shared)

    def tick(self) -> bool:
        self.threads.add(threading.current_thread().name)
        if not self.work:
            return False
        self.seen.append(self.work)
        self.work -= 1
        self.ticks += 1
        if self.ticks == self.fault_at:
            raise RuntimeError("a fault in the middle")
        if not self.work:
            self.done.set()
        return True

    def give(self, n: int) -> None:
        self.post(lambda: setattr(self, "work", self.work + n))


def test_work_is_done_on_the_rooms_own_thread_and_then_it_rests() -> None:
    with Counting() as room:
        room.give(3)
        assert room.done.wait(300)
        assert room.ask(lambda: room.ticks).result(60) == 3
        assert room.threads == {"room counting"}
    assert "room counting" not in {t.name for t in threading.enumerate()}


def test_a_fault_in_a_tick_or_a_call_does_not_end_the_room(caplog: pytest.LogCaptureFixture) -> None:
    with Counting(fault_at=2) as room:
        room.post(lambda: 1 // 0)  # type: ignore[arg-type,return-value]
        room.give(3)
        with pytest.raises(ZeroDivisionError):
            room.ask(lambda: 1 // 0).result(60)
        room.give(1)
        assert room.done.wait(300)
    assert room.ticks == 4
    assert "went on after a fault" in caplog.text


def test_a_full_room_says_when_to_come_back_and_a_closed_one_takes_nobody() -> None:
    with Counting() as room:
        room.enter()
        room.enter()
        with pytest.raises(Busy, match="all 2 places for counting") as refusal:
            room.enter()
        assert refusal.value.retry_after > 0
        room.leave()
        room.enter()
        assert room.taken == 2
    with pytest.raises(Closed, match="connect again"):
        room.enter()


def test_calls_asked_before_the_end_are_answered_whatever_the_thread_did_meanwhile() -> None:
    room = Counting()
    answers = [room.ask(lambda i=i: i) for i in range(10)]  # type: ignore[misc]
    room.stop()
    with room:
        assert [a.result(60) for a in answers] == list(range(10))


def until_asked(turns: Turns, n: int) -> None:
    while turns.asked < n:
        time.sleep(0)  # no time passes: the threads that are to ask come on


def test_turns_are_taken_one_at_a_time_in_the_order_they_were_asked_for() -> None:
    turns, order = Turns(), list[tuple[str, bool]]()

    def take(name: str) -> None:
        with turns as waited:
            order.append((name, waited))

    threads = [threading.Thread(target=take, args=(name,)) for name in "abc"]
    with turns as waited:
        assert not waited
        for n, thread in enumerate(threads):
            thread.start()
            until_asked(turns, n + 2)
        assert not order
    for thread in threads:
        thread.join()
    assert order == [("a", True), ("b", True), ("c", True)]
    assert turns.asked == 0


def test_a_room_that_waited_for_its_turn_steps_with_all_that_came_meanwhile() -> None:
    turns = Turns()
    with Counting(shared=turns) as room:
        with turns:
            room.give(3)
            until_asked(turns, 2)
            room.give(2)
            assert not room.seen
        assert room.done.wait(300)
    assert room.seen[0] == 5
