"""The thinking room: one language model, many conversations, one thread.

What a session's user says comes in while it is still being said and is prefilled; replies go out through the session's
sink, piece by piece. The assistant remembers conversations by itself; here each prompt is compared with what it
remembers, so that only what is new, changed or was never heard is worked on. There may be more conversations than it
has places for: one that is to be answered takes the place of the one silent longest, which is told all again later.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vivavoce.server import signals
from vivavoce.speech.llm.assistant import Assistant, Conversation, Piece
from vivavoce.streaming.errors import VivaVoceError

from .room import Room, Step

log = logging.getLogger(__name__)

Sink = Callable[[signals.Said | signals.Called | signals.Replied | signals.NoReply], None]
Message = dict[str, Any]
GO_ON = "Go on."  # what stands for the user's words when a reply is wanted and there are none
LONGEST = 256  # tokens of a reply that has no limit of its own: about a minute and a half of speech


@dataclass(eq=False)
class Thinking:
    """A session in the room; its methods may be called from any thread. It takes a place when asked to think, and keeps
    it until another needs it.

    known: the messages up to the last reply, as the session's prompts have them; said: what there is of that reply.
    """

    room: ThinkingRoom
    sink: Sink
    conversation: Conversation | None = None
    instructions: str = ""
    known: list[Message] = field(default_factory=list)
    turn: str = ""
    said: str = ""
    reply: int | None = None
    closed: bool = False

    def prefill(self, prompt: signals.Prompt) -> None:
        self.room.post(lambda: self.room.prefill(self, prompt))

    def start(self, reply: int, prompt: signals.Prompt) -> None:
        self.room.post(lambda: self.room.begin(self, reply, prompt))

    def cancel(self, reply: int) -> None:
        self.room.post(lambda: self.room.cancel(self, reply))

    def close(self) -> None:
        self.room.post(lambda: self.room.dismiss(self))


class ThinkingRoom(Room):
    """assistant: its slots are the room's places."""

    def __init__(self, assistant: Assistant, *, name: str = "thinking", now: Callable[[], float] = time.monotonic,
                 observe: Callable[[Step], None] = lambda step: None) -> None:  # fmt: skip
        super().__init__(name, assistant.free, now=now, observe=observe)
        self.assistant = assistant
        self._replying: dict[Conversation, Thinking] = {}
        self._inside: dict[Thinking, None] = {}  # who has a place, the one that used it longest ago first
        self._waiting: deque[tuple[Thinking, int, signals.Prompt]] = deque()  # replies to begin once there is a place

    def open(self, sink: Sink) -> Thinking:
        return Thinking(self, sink)

    def tick(self) -> bool:
        while self._waiting and self._make_room():
            self._begin(*self._waiting.popleft())
        if self.assistant.idle:
            return False
        began = self.now()
        try:
            pieces = self.assistant.step()
        except Exception as e:  # whatever the model raises ends these replies, not the room
            log.exception("a step of the %s room failed for %d replies", self.name, len(self._replying))
            for replying in list(self._replying.values()):
                self._fail(replying, str(e))
            return True
        if pieces:
            self.observe(Step(self.name, len(pieces), self.now() - began))
        for piece in pieces:
            if (thinking := self._replying.get(piece.conversation)) is not None:
                self._give(thinking, piece)
        return True

    def prefill(self, thinking: Thinking, prompt: signals.Prompt) -> None:
        """On the room's thread, as all that follows. What cannot be prefilled is read when the reply is asked for."""
        if thinking.closed or thinking.reply is not None:
            return
        if thinking.conversation is None and self.taken >= self.places - 1:
            return  # the last place is for who wants a reply
        try:
            conversation, turn = self._ready(thinking, prompt)
            self.assistant.hear(conversation, turn)
            self._used(thinking)
        except VivaVoceError as e:
            log.debug("nothing was prefilled: %s", e)
            self._forget(thinking)

    def begin(self, thinking: Thinking, reply: int, prompt: signals.Prompt) -> None:
        """At once for who has a place; others get one in the order in which they asked, as replies end."""
        if thinking.closed:
            return
        if thinking.conversation is None:
            self._waiting.append((thinking, reply, prompt))
        else:
            self._begin(thinking, reply, prompt)

    def _begin(self, thinking: Thinking, reply: int, prompt: signals.Prompt) -> None:
        try:
            self._reply(thinking, reply, prompt)
        except (VivaVoceError, ValueError):
            self._forget(thinking)
            try:  # from the beginning: what it remembered may have been the trouble
                self._reply(thinking, reply, prompt)
            except (VivaVoceError, ValueError) as e:
                self._forget(thinking)
                thinking.sink(signals.NoReply(reply, str(e)))

    def cancel(self, thinking: Thinking, reply: int) -> None:
        """What of it was heard shows in the prompts that follow."""
        self._waiting = deque(w for w in self._waiting if w[:2] != (thinking, reply))
        if thinking.closed or thinking.reply != reply or thinking.conversation is None:
            return
        self.assistant.cancel(thinking.conversation)
        self._end(thinking)
        if not thinking.said:
            self._forget(thinking)

    def dismiss(self, thinking: Thinking) -> None:
        thinking.closed = True
        self._waiting = deque(w for w in self._waiting if w[0] is not thinking)
        self._forget(thinking)

    def _reply(self, thinking: Thinking, reply: int, prompt: signals.Prompt) -> None:
        conversation, turn = self._ready(thinking, prompt)
        self.assistant.reply(conversation, turn, max_tokens=min(prompt.max_tokens or LONGEST, LONGEST))
        thinking.turn, thinking.said, thinking.reply = turn, "", reply
        self._replying[conversation] = thinking

    def _give(self, thinking: Thinking, piece: Piece) -> None:
        reply = thinking.reply
        assert reply is not None, "only replies that run are among `_replying`"
        thinking.said += piece.text
        if piece.text:
            thinking.sink(signals.Said(reply, piece.text))
        if piece.done == "failed":
            thinking.conversation = None  # the assistant has closed it
            del self._replying[piece.conversation]
            self._leave(thinking)
            self._fail(thinking, str(piece.error))
        elif piece.done is not None:
            self._end(thinking)
            thinking.sink(signals.Replied(reply, "length" if piece.done in ("length", "full") else "end"))

    def _fail(self, thinking: Thinking, message: str) -> None:
        reply = thinking.reply
        self._forget(thinking)
        if reply is not None:
            thinking.sink(signals.NoReply(reply, message))

    def _end(self, thinking: Thinking) -> None:
        assert thinking.conversation is not None
        del self._replying[thinking.conversation]
        thinking.reply = None
        self._used(thinking)
        thinking.known += [_message("user", thinking.turn), _message("assistant", thinking.said.strip())]

    def _ready(self, thinking: Thinking, prompt: signals.Prompt) -> tuple[Conversation, str]:
        """The assistant's conversation, brought to where this prompt's last turn begins, and that turn. Raises
        VivaVoceError."""
        instructions, before, turn = parts(prompt)
        if thinking.conversation is None or thinking.instructions != instructions:
            return self._afresh(thinking, instructions, before), turn
        if before != thinking.known:
            heard = _heard(thinking.known, before, turn)
            if heard is None:
                return self._afresh(thinking, instructions, before), turn
            self.assistant.cancel(thinking.conversation, heard=heard)
            thinking.known = before
        return thinking.conversation, turn

    def _afresh(self, thinking: Thinking, instructions: str, before: list[Message]) -> Conversation:
        self._forget(thinking)
        self.enter()
        try:
            thinking.conversation = self.assistant.open(instructions=instructions, history=before)
        except BaseException:
            self.leave()
            raise
        self._used(thinking)
        thinking.instructions, thinking.known = instructions, before
        return thinking.conversation

    def _forget(self, thinking: Thinking) -> None:
        if thinking.conversation is not None:
            self._replying.pop(thinking.conversation, None)
            self.assistant.close(thinking.conversation)
            self._leave(thinking)
        thinking.conversation, thinking.reply, thinking.known = None, None, []

    def _make_room(self) -> bool:
        """Whether a place is free, if need be that of who used theirs longest ago and has no reply under way."""
        if self.taken >= self.places and (idle := next((t for t in self._inside if t.reply is None), None)):
            self._forget(idle)
        return self.taken < self.places

    def _used(self, thinking: Thinking) -> None:
        self._inside.pop(thinking, None)
        self._inside[thinking] = None

    def _leave(self, thinking: Thinking) -> None:
        del self._inside[thinking]
        self.leave()


def parts(prompt: signals.Prompt) -> tuple[str, list[Message], str]:
    """Instructions, the messages up to the last the assistant said, and all the user has said since. Tools are beyond
    the assistant: their calls and results are left out."""
    said = [m for m in prompt.messages if m["role"] in ("user", "assistant") and not m.get("tool_calls")]
    system = "\n".join(m["content"] for m in prompt.messages if m["role"] == "system")
    last = max((i + 1 for i, m in enumerate(said) if m["role"] == "assistant"), default=0)
    return system, _joined(said[:last]), " ".join(m["content"] for m in said[last:]) or GO_ON


def _joined(messages: Sequence[Any]) -> list[Message]:
    """Roles in turn: what one says in several messages is one."""
    out: list[Message] = []
    for m in messages:
        if out and out[-1]["role"] == m["role"]:
            out[-1] = _message(m["role"], f"{out[-1]['content']} {m['content']}")
        else:
            out.append(_message(m["role"], m["content"].strip()))
    return out


def _heard(known: Sequence[Message], before: Sequence[Message], turn: str) -> int | None:
    """How many characters of the last reply were heard, where that is all in which a prompt differs from what is known;
    None where there is more."""
    if len(known) < 2:
        return None
    *earlier, question, answer = known
    if before == earlier and turn.startswith(question["content"]):
        return 0
    if len(before) == len(known) and before[:-1] == known[:-1] and answer["content"].startswith(before[-1]["content"]):
        return len(before[-1]["content"])
    return None


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
