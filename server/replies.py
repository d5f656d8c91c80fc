"""Where replies come from: what a session needs of a language model, and a source of it at an endpoint.

A `Replies` opens a `Thinking` for each session. It takes the conversation's `Prefill`, `StartReply` and `CancelReply`,
and hands `Said`, `Called`, `Replied` and `NoReply` to the session's sink. `EndpointReplies` asks any server that speaks
OpenAI's chat completions (vLLM, SGLang, Ollama, ...); `rooms.thinking.ThinkingRoom` asks the model in this process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from vivavoce.streaming.errors import VivaVoceError

from . import signals

Sink = Callable[[signals.Said | signals.Called | signals.Replied | signals.NoReply], None]
LARGEST = 1024 * 1024  # characters of one line from an endpoint


class Thinking(Protocol):
    """One session. Its methods return at once; for a reply that was cancelled nothing more comes, and for any other
    exactly one `Replied` or `NoReply`, the last."""

    def prefill(self, prompt: signals.Prompt) -> None: ...
    def start(self, reply: int, prompt: signals.Prompt) -> None: ...
    def cancel(self, reply: int) -> None: ...
    def close(self) -> None: ...


class Replies(Protocol):
    """name: of the model, to show."""

    @property
    def name(self) -> str: ...
    def open(self, sink: Sink) -> Thinking: ...


class ReplyFailed(VivaVoceError, RuntimeError):
    """An endpoint that did not answer, or not as it should. code: for the client."""

    def __init__(self, message: str, code: str = "reply_failed") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Patience:
    """Seconds to wait: to be connected, for the first piece of a reply, for each one after it."""

    connect: float = 5.0
    first: float = 30.0
    next: float = 15.0


class EndpointReplies:
    """url: up to and including `/v1`; model: its name there, or the first that the endpoint lists; key: its API key.
    Use it on one event loop; sinks are called there."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        patience: Patience | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._model, self._patience = url.rstrip("/"), model, patience or Patience()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(self._patience.first, connect=self._patience.connect)
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, transport=transport)

    @property
    def name(self) -> str:
        return self._model or self._url

    def open(self, sink: Sink) -> Thinking:
        return _Asking(self, sink)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def stream(self, number: int, prompt: signals.Prompt) -> AsyncIterator[signals.Said | signals.Called
                                                                                | signals.Replied]:  # fmt: skip
        """The reply's pieces, `Replied` last. Raises ReplyFailed."""
        try:
            if self._model is None:
                self._model = await self._first_model()
            request = self._client.stream("POST", f"{self._url}/chat/completions", json=body(prompt, self._model))
            async with request as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                reader = Reader(number)
                async for data in self._data(response):
                    for piece in reader.read(data):
                        yield piece
                yield reader.finish()
        except httpx.TimeoutException as e:
            raise ReplyFailed(f"{self._url} did not answer in time ({type(e).__name__})", "reply_timeout") from e
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise ReplyFailed(f"{self._url}: {e or type(e).__name__}", "reply_unreachable") from e

    async def _data(self, response: httpx.Response) -> AsyncIterator[str]:
        """What the server-sent events hold, up to `[DONE]`."""
        lines = response.aiter_lines()
        wait = self._patience.first
        while True:
            try:
                async with asyncio.timeout(wait):
                    line = await anext(lines)
            except StopAsyncIteration:
                return
            except TimeoutError as e:
                raise ReplyFailed(f"{self._url} fell silent for {wait:g} s", "reply_timeout") from e
            if len(line) > LARGEST:
                raise ReplyFailed(f"{self._url} sent a line of {len(line)} characters")
            field, _, value = line.partition(":")
            if field == "data":
                if value.strip() == "[DONE]":
                    return
                yield value
                wait = self._patience.next

    async def _first_model(self) -> str:
        response = await self._client.get(f"{self._url}/models")
        if response.status_code != httpx.codes.OK:
            raise await self._refusal(response)
        try:
            return str(response.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as e:
            raise ReplyFailed(f"{self._url}/models lists no model; name one") from e

    async def _refusal(self, response: httpx.Response) -> ReplyFailed:
        text = (await response.aread()).decode(errors="replace")
        with suppress(ValueError, LookupError, TypeError):
            text = str(json.loads(text)["error"]["message"])
        return ReplyFailed(f"{self._url} answered {response.status_code}: {' '.join(text.split())[:300]}")


class _Asking:
    """One session at an endpoint: a task a reply."""

    def __init__(self, replies: EndpointReplies, sink: Sink) -> None:
        self._replies, self._sink = replies, sink
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def prefill(self, prompt: signals.Prompt) -> None:
        """An endpoint reads only whole prompts; its own prefix cache makes the next one quick."""

    def start(self, reply: int, prompt: signals.Prompt) -> None:
        task = asyncio.get_running_loop().create_task(self._reply(reply, prompt))
        self._tasks[reply] = task
        task.add_done_callback(lambda _: self._tasks.pop(reply, None))

    def cancel(self, reply: int) -> None:
        if task := self._tasks.get(reply):
            task.cancel()

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _reply(self, number: int, prompt: signals.Prompt) -> None:
        try:
            async for piece in self._replies.stream(number, prompt):
                self._sink(piece)
        except ReplyFailed as e:
            self._sink(signals.NoReply(number, str(e), e.code))


class Reader:
    """The chunks of one streamed chat completion, as pieces of reply `number`."""

    def __init__(self, number: int) -> None:
        self._number, self._reason, self._usage = number, "", signals.Usage()
        self._named: set[int] = set()

    def read(self, data: str) -> list[signals.Said | signals.Called]:
        """Raises ReplyFailed for what is no chunk."""
        try:
            chunk = json.loads(data)
            if chunk.get("error"):
                raise ReplyFailed(f"the endpoint broke off: {chunk['error']}"[:300])
            usage = chunk.get("usage") or {}
            if usage:
                self._usage = signals.Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
            return [piece for choice in chunk.get("choices", [])[:1] for piece in self._choice(choice)]
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise ReplyFailed(f"the endpoint sent what is no chat completion chunk: {data[:100]!r}") from e

    def finish(self) -> signals.Replied:
        """Raises ReplyFailed when the stream ended before the reply did."""
        if not self._reason:
            raise ReplyFailed("the endpoint broke off in the middle of its reply")
        return signals.Replied(self._number, "length" if self._reason == "length" else "end", self._usage)

    def _choice(self, choice: Mapping[str, Any]) -> list[signals.Said | signals.Called]:
        delta = choice.get("delta") or {}
        self._reason = str(choice.get("finish_reason") or self._reason)
        out: list[signals.Said | signals.Called] = []
        if content := delta.get("content"):
            out.append(signals.Said(self._number, str(content)))
        return out + [self._call(call) for call in delta.get("tool_calls") or []]

    def _call(self, call: Mapping[str, Any]) -> signals.Called:
        index, function = int(call.get("index", 0)), call.get("function") or {}
        name, arguments = str(function.get("name") or ""), str(function.get("arguments") or "")
        first = index not in self._named
        self._named.add(index)
        return signals.Called(self._number, index, arguments, name if first else "", str(call.get("id") or ""))


def body(prompt: signals.Prompt, model: str) -> dict[str, Any]:
    """The request of a streamed chat completion."""
    out: dict[str, Any] = {"model": model, "messages": list(prompt.messages), "stream": True,
                           "stream_options": {"include_usage": True}}  # fmt: skip
    if prompt.tools:
        out |= {"tools": list(prompt.tools), "tool_choice": prompt.tool_choice}
    if prompt.max_tokens is not None:
        out["max_tokens"] = prompt.max_tokens
    if prompt.temperature is not None:
        out["temperature"] = prompt.temperature
    return out
