"""The items of a conversation in order, and the prompt they make.

What an agent said counts as far as it was heard. A tool call stands beside its result in the prompt, wherever in the
conversation the result came, and one that never got any says so; otherwise endpoints refuse the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import items
from .items import Item
from .outbox import Problem
from .playback import Track

MOST = 1000  # items; the oldest are forgotten
NO_RESULT = "(no result yet)"

Message = Mapping[str, Any]


@dataclass
class Entry:
    """track: of an item that is spoken; mute: it does not belong in the prompt (a backchannel, silence)."""

    item: Item
    track: Track | None = None
    mute: bool = False

    @property
    def id(self) -> str:
        return self.item.id or ""

    def shown(self) -> Item:
        """The item as clients may see it: of what was spoken, the part that was heard."""
        if self.track is None or not isinstance(self.item, items.AssistantMessage):
            return self.item
        part = items.OutputAudio(type="output_audio", transcript=self.track.heard)
        return self.item.model_copy(update={"content": [part]})


class History:
    """Raises Problem for ids that are unknown or taken."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last_id(self) -> str | None:
        return self._entries[-1].id if self._entries else None

    def get(self, item_id: str, param: str = "item_id") -> Entry:
        return self._entries[self._at(item_id, param)]

    def add(self, entry: Entry, after: str | None = None) -> str | None:
        """Put it behind an item, `root` being before all and None behind all. Returns the id of the one before it."""
        if any(e.id == entry.id for e in self._entries):
            raise Problem("item_exists", f"there is already an item {entry.id!r}; give this one another id", "item.id")
        if isinstance(entry.item, items.FunctionCallOutput) and entry.item.call_id not in self._calls():
            raise Problem("unknown_call", f"no tool call has the id {entry.item.call_id!r}; give that of a "
                          "function_call in this conversation", "item.call_id")  # fmt: skip
        at = len(self._entries)
        if after is not None:
            at = 0 if after == "root" else self._at(after, "previous_item_id") + 1
        self._entries.insert(at, entry)
        before = self._entries[at - 1].id if at else None
        if len(self._entries) > MOST:
            self._entries.pop(0)
        return before

    def replace(self, item: Item) -> str | None:
        """A newer version of an item that is there, if it still is. Returns the id of the one before it."""
        for i, entry in enumerate(self._entries):
            if entry.id == item.id:
                entry.item = item
                return self._entries[i - 1].id if i else None
        return None

    def delete(self, item_id: str) -> None:
        del self._entries[self._at(item_id, "item_id")]

    def messages(self, chars: int) -> list[Message]:
        """As chat completions have them, the newest that fit into so many characters, a call with its result."""
        groups = [group for entry in self._entries if (group := self._group(entry))]
        kept: list[list[Message]] = []
        for group in reversed(groups):
            chars -= sum(len(str(message)) for message in group)
            if chars < 0 and kept:
                break
            kept.append(group)
        return [message for group in reversed(kept) for message in group]

    def _group(self, entry: Entry) -> list[Message]:
        item = entry.shown()
        if entry.mute or isinstance(item, items.FunctionCallOutput):
            return []
        if isinstance(item, items.FunctionCall):
            return self._call(item) if item.status != "incomplete" else []
        text = text_of(item)
        return [{"role": item.role, "content": text}] if text else []

    def _call(self, item: items.FunctionCall) -> list[Message]:
        result = next(
            (
                e.item.output
                for e in reversed(self._entries)
                if isinstance(e.item, items.FunctionCallOutput) and e.item.call_id == item.call_id
            ),
            NO_RESULT,
        )
        function = {"name": item.name, "arguments": item.arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        return [{"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": item.call_id, "content": result}]  # fmt: skip

    def knows_call(self, call_id: str) -> bool:
        return call_id in self._calls()

    def _calls(self) -> set[str | None]:
        return {e.item.call_id for e in self._entries if isinstance(e.item, items.FunctionCall)}

    def _at(self, item_id: str, param: str) -> int:
        for i, entry in enumerate(self._entries):
            if entry.id == item_id:
                return i
        raise Problem("item_not_found", f"this conversation has no item {item_id!r}", param)


def text_of(item: items.SystemMessage | items.UserMessage | items.AssistantMessage) -> str:
    """All that is written or was said in it."""
    said = (getattr(part, "text", None) or getattr(part, "transcript", None) for part in item.content)
    return " ".join(text.strip() for text in said if text and text.strip())
