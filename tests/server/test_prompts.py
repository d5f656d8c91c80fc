"""What is asked of the model: the session's settings, and what one response overrides."""

from __future__ import annotations

from typing import Any

from vivavoce.server.prompts import prompt, wanted
from vivavoce.server.requests import ResponseParams
from vivavoce.server.settings import RealtimeSettings

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SESSION = RealtimeSettings.model_validate({"instructions": "Be brief.", "tools": [TOOL], "max_output_tokens": 50,
                                           "audio": {"output": {"voice": "marin", "speed": 1.2}}})  # fmt: skip


def params(**fields: Any) -> ResponseParams:
    return ResponseParams.model_validate(fields)


def test_without_wishes_the_session_decides() -> None:
    asked = prompt(SESSION, params(), [{"role": "user", "content": "hi"}])
    assert asked.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"})
    assert asked.tools[0] == {"type": "function", "function": {"name": "f", "description": "",
                                                               "parameters": {"type": "object"}}}  # fmt: skip
    assert (asked.tool_choice, asked.max_tokens, asked.temperature) == ("auto", 50, None)
    plain = wanted(SESSION, params())
    assert (plain.voice, plain.rate, plain.modalities, plain.remembered) == ("marin", 1.2, ["audio"], True)


def test_a_response_may_have_it_otherwise() -> None:
    wish = params(instructions="", tools=[], max_output_tokens="inf", temperature=0, conversation="none",
                  output_modalities=["text"], tool_choice={"type": "function", "name": "f"},
                  audio={"output": {"voice": {"id": "mine"}, "format": {"type": "audio/pcma"}}})  # fmt: skip
    asked = prompt(SESSION, wish, [])
    assert (asked.messages, asked.tools, asked.max_tokens, asked.temperature) == ((), (), None, 0)
    assert asked.tool_choice == {"type": "function", "function": {"name": "f"}}
    other = wanted(SESSION, wish)
    assert (other.voice, other.format.type, other.modalities, other.remembered) == (
        "mine",
        "audio/pcma",
        ["text"],
        False,
    )
