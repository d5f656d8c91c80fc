"""Items in order, and the prompt they make."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from vivavoce.server import history
from vivavoce.server.history import Entry, History
from vivavoce.server.items import Item
from vivavoce.server.outbox import Problem
from vivavoce.server.playback import Track

ITEM: TypeAdapter[Any] = TypeAdapter(Item)


def message(id: str, role: str, text: str) -> Entry:
    kind = "output_text" if role == "assistant" else "input_text"
    return Entry(
        ITEM.validate_python({"type": "message", "id": id, "role": role, "content": [{"type": kind, "text": text}]})
    )


def call(id: str, call_id: str, **fields: Any) -> Entry:
    item = {"type": "function_call", "id": id, "name": "f", "arguments": "{}", "call_id": call_id}
    return Entry(ITEM.validate_python(item | fields))


def result(id: str, call_id: str) -> Entry:
    return Entry(ITEM.validate_python({"type": "function_call_output", "id": id, "call_id": call_id, "output": "42"}))


def test_items_go_where_they_are_put() -> None:
    items = History()
    assert items.add(message("b", "user", "b")) is None
    assert items.add(message("d", "user", "d")) == "b"
    assert items.add(message("c", "user", "c"), "b") == "b"
    assert items.add(message("a", "user", "a"), "root") is None
    assert [e.id for e in items] == ["a", "b", "c", "d"]
    items.delete("c")
    assert [m["content"] for m in items.messages(1000)] == ["a", "b", "d"]


@pytest.mark.parametrize(("entry", "after", "code"), [
    (message("a", "user", ""), None, "item_exists"), (message("b", "user", ""), "nobody", "item_not_found"),
    (result("b", "nobody"), None, "unknown_call")])  # fmt: skip
def test_what_cannot_be_put_is_refused(entry: Entry, after: str | None, code: str) -> None:
    items = History()
    items.add(message("a", "user", "a"))
    with pytest.raises(Problem) as refused:
        items.add(entry, after)
    assert refused.value.code == code
    assert len(items) == 1


def test_a_result_stands_beside_its_call_wherever_it_came() -> None:
    items = History()
    for entry in (call("a", "c1"), call("b", "c2"), message("c", "user", "hello"), result("d", "c1")):
        items.add(entry)
    prompt = items.messages(10_000)
    assert [m["role"] for m in prompt] == ["assistant", "tool", "assistant", "tool", "user"]
    assert [m["content"] for m in prompt if m["role"] == "tool"] == ["42", history.NO_RESULT]


def test_a_call_that_was_cut_off_is_not_in_the_prompt() -> None:
    items = History()
    items.add(call("a", "c1", status="incomplete"))
    assert items.messages(1000) == []


def test_the_oldest_do_not_fit_and_calls_keep_their_results() -> None:
    items = History()
    items.add(message("a", "user", "x" * 500))
    items.add(call("b", "c1"))
    items.add(result("c", "c1"))
    assert [m["role"] for m in items.messages(400)] == ["assistant", "tool"]
    assert len(items.messages(1)) == 2  # the newest is always there


def test_of_what_was_spoken_counts_what_was_heard() -> None:
    items = History()
    track = Track("a", "r", 1, text="one two", words=[(10, 3), (30, 7)], sent=40)
    item = ITEM.validate_python({"type": "message", "id": "a", "role": "assistant", "content": []})
    items.add(Entry(item, track))
    assert items.messages(1000)[0]["content"] == "one two"
    track.cut(20)
    assert items.messages(1000)[0]["content"] == "one"
    track.cut(0)
    assert items.messages(1000) == []


def test_it_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 3)
    items = History()
    for name in "abcde":
        items.add(message(name, "user", name))
    assert [e.id for e in items] == ["c", "d", "e"]
