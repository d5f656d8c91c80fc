"""Items in the shapes that OpenAI's client sends and reads."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.realtime import conversation_item
from pydantic import TypeAdapter, ValidationError

from vivavoce.server.items import Item

OURS: TypeAdapter[Any] = TypeAdapter(Item)
THEIRS: TypeAdapter[Any] = TypeAdapter(conversation_item.ConversationItem)

ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
    {"type": "message", "role": "user", "id": "a", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "AAAA"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
    {"type": "message", "role": "assistant", "status": "completed", "content": [{"type": "output_audio"}]},
    {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
    {"type": "function_call_output", "call_id": "c", "output": "42"},
]


@pytest.mark.parametrize("item", ITEMS)
def test_what_comes_in_goes_out_the_same_and_their_client_reads_it(item: dict[str, Any]) -> None:
    out = OURS.validate_python(item).model_dump()
    assert out == item  # and nothing that is None
    assert THEIRS.validate_python(out).type == item["type"]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
        {"type": "message", "role": "robot", "content": []},
        {"type": "message", "role": "user", "content": [], "mood": "good"},
        {"type": "mcp_call"},
        7,
    ],
)
def test_what_is_no_item_is_refused(item: Any) -> None:
    with pytest.raises(ValidationError):
        OURS.validate_python(item)
