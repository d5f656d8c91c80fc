"""What waits for a client: in order, bounded, and again after a break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from vivavoce.server import outgoing
from vivavoce.server.outgoing import Outgoing


def event(n: int) -> str:
    return f'{{"type":"x","event_id":"event_{n}"}}'


def run(test: Callable[[Outgoing], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(Outgoing()), 300)

    asyncio.run(main())


def test_texts_come_in_order_and_then_none() -> None:
    async def test(out: Outgoing) -> None:
        waiting = asyncio.create_task(out.get())
        await asyncio.sleep(0)
        out.put("b")
        out.put("a", first=True)
        out.close("done")
        out.put("too late")
        assert {await waiting, await out.get()} == {"a", "b"}
        assert await out.get() is None
        assert out.reason == "done"

    run(test)


def test_a_slow_client_is_waited_for() -> None:
    async def test(out: Outgoing) -> None:
        out.put("x" * outgoing.SLOW)
        await out.space()
        out.put("y")
        waiting = asyncio.create_task(out.space())
        await asyncio.sleep(0)
        assert not waiting.done()
        await out.get()
        await waiting

    run(test)


def test_one_that_never_reads_is_let_go() -> None:
    async def test(out: Outgoing) -> None:
        for _ in range(outgoing.STUCK // outgoing.SLOW + 1):
            out.put("x" * outgoing.SLOW)
        assert out.stuck
        assert out.closed

    run(test)


def test_after_a_break_what_may_be_lost_comes_again() -> None:
    async def test(out: Outgoing) -> None:
        for n in range(1, 5):
            out.put(event(n))
        assert [await out.get() for _ in range(3)] == [event(1), event(2), event(3)]
        out.again("event_1")
        assert [await out.get() for _ in range(3)] == [event(2), event(3), event(4)]
        out.again("event_9")
        out.close()
        assert await out.get() is None

    run(test)


def test_no_more_is_kept_than_can_be_used() -> None:
    async def test(out: Outgoing) -> None:
        out.put(event(1) + " " * outgoing.AGAIN)
        out.put(event(2))
        assert await out.get() is not None
        assert await out.get() == event(2)
        out.again("event_1")
        out.close()
        assert await out.get() is None

    run(test)
