"""Replies from an endpoint: streamed, with tools, and every way in which it can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from vivavoce.server import signals
from vivavoce.server.replies import EndpointReplies, Patience, body

PROMPT = signals.Prompt(({"role": "user", "content": "hi"},), max_tokens=9, temperature=0.5)


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def end(reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def stream(*chunks: dict[str, Any], done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(c)}\n\n" for c in chunks]
    return "".join([": keep alive\n\n", *lines, *(["data: [DONE]\n\n"] if done else [])]).encode()


def ask(answer: Callable[[httpx.Request], httpx.Response], *, model: str | None = "m", patience: Patience | None = None,
        prompt: signals.Prompt = PROMPT, cancel: bool = False) -> list[Any]:  # fmt: skip
    """What one reply gives the session."""

    async def run() -> list[Any]:
        got: list[Any] = []
        over = asyncio.Event()

        def sink(piece: Any) -> None:
            got.append(piece)
            if isinstance(piece, signals.Replied | signals.NoReply):
                over.set()

        replies = EndpointReplies("http://llm/v1/", model=model, key="k", patience=patience,
                                  transport=httpx.MockTransport(answer))  # fmt: skip
        thinking = replies.open(sink)
        thinking.prefill(prompt)
        thinking.start(7, prompt)
        if cancel:
            while not got:
                await asyncio.sleep(0)
            thinking.cancel(7)
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
        else:
            await over.wait()
        thinking.close()
        await replies.aclose()
        return got

    return asyncio.run(run())


def answers(content: bytes, status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, content=content)


def test_text_comes_in_pieces_with_its_usage() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    got = ask(
        answers(stream(chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), end(), usage))
    )
    assert got == [signals.Said(7, "Hel"), signals.Said(7, "lo"), signals.Replied(7, "end", signals.Usage(3, 2))]


def test_a_tool_call_comes_in_pieces() -> None:
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": "{}"}}
    got = ask(answers(stream(chunk(tool_calls=[first]), chunk(tool_calls=[more]), end("tool_calls"))))
    assert got[:2] == [signals.Called(7, 0, "", "f", "c1"), signals.Called(7, 0, "{}")]
    assert isinstance(got[2], signals.Replied)


def test_what_is_asked_is_a_chat_completion() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=stream(end("length")))

    assert ask(answer) == [signals.Replied(7, "length")]
    assert str(seen[0].url) == "http://llm/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer k"
    sent = json.loads(seen[0].content)
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["stream"]) == ("m", 9, 0.5, True)
    assert "tools" not in sent
    assert body(signals.Prompt((), ({"type": "function"},), "required"), "m")["tool_choice"] == "required"


def test_without_a_name_the_first_model_there_answers() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "first"}, {"id": "second"}]})
        assert json.loads(request.content)["model"] == "first"
        return httpx.Response(200, content=stream(end()))

    assert ask(answer, model=None) == [signals.Replied(7)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answers(b'{"error":{"message":"no such model"}}', 404), "no such model"),
        (answers(b"<html>bad gateway", 502), "502"),
        (answers(stream(chunk(content="half"), done=False)), "broke off"),
        (answers(b"data: not json\n\n"), "no chat completion chunk"),
        (answers(b"data: [1]\n\n"), "no chat completion chunk"),
        (answers(stream({"error": "out of memory"})), "out of memory"),
    ],
)
def test_what_fails_is_told_and_is_the_last(answer: Any, said: str) -> None:
    got = ask(answer)
    assert isinstance(got[-1], signals.NoReply)
    assert said in got[-1].message
    assert sum(isinstance(p, signals.NoReply | signals.Replied) for p in got) == 1


def test_nobody_there() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    assert ask(answer)[-1].code == "reply_unreachable"


async def silent() -> AsyncIterator[bytes]:
    yield stream(chunk(content="well"), done=False)
    await asyncio.Event().wait()


def test_an_endpoint_that_falls_silent_is_not_waited_for() -> None:
    got = ask(lambda request: httpx.Response(200, content=silent()), patience=Patience(next=0.01))
    assert got[0] == signals.Said(7, "well")
    assert got[-1].code == "reply_timeout"


def test_after_a_cancel_nothing_comes() -> None:
    assert ask(lambda request: httpx.Response(200, content=silent()), cancel=True) == [signals.Said(7, "well")]
