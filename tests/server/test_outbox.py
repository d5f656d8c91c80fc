"""Names, numbers and order of what goes out."""

from __future__ import annotations

from vivavoce.server.events import Cleared, Error
from vivavoce.server.outbox import Outbox, Problem
from vivavoce.server.signals import Close


def test_what_is_put_in_comes_out_once_in_order_with_names_of_its_own() -> None:
    out = Outbox("ab")
    first, close, second = Cleared(), Close("idle"), Cleared()
    for output in (first, close, second):
        out.put(output)
    assert list(out.take()) == [first, close, second]
    assert first.event_id != second.event_id
    assert list(out.take()) == []


def test_names_belong_to_their_session() -> None:
    out, other = Outbox("ab"), Outbox("cd")
    assert out.name("item") != out.name("item")
    assert out.owns(out.name("item"))
    assert not out.owns(other.name("item"))
    assert [out.number(), out.number()] == [1, 2]


def test_a_problem_becomes_an_error_with_its_code() -> None:
    out = Outbox()
    out.refuse(Problem("item_not_found", "there is no such item", "item_id"), "mine")
    (error,) = out.take()
    assert isinstance(error, Error)
    assert (error.error.code, error.error.param, error.error.event_id) == ("item_not_found", "item_id", "mine")
