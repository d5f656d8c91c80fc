"""Conversations in text on one language model: words in while they are still being said, a streamed reply out.

Chat template, tokens and stop strings meet the engine here. The server's rooms and `vivavoce chat` hand in words and
get `Piece`s; one thread calls it, `step` is one batch for every conversation.

    assistant = Assistant.load("chat-en", slots=8)
    conversation = assistant.open(instructions="Be brief.")
    assistant.hear(conversation, "what is your")           # prefilled while the user still talks
    assistant.hear(conversation, "What is your name?")     # the whole turn again: only what changed is taken back
    assistant.reply(conversation)                          # the turn is over
    while not assistant.idle:
        for piece in assistant.step():
            print(piece.text, end="")
    assistant.cancel(conversation, heard=12)               # a barge-in: 12 characters were heard, the rest never was
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from vivavoce.speech.errors import BadCheckpoint
from vivavoce.streaming.cache_policy import SinkRing
from vivavoce.streaming.eight_bits import Kept
from vivavoce.streaming.engine import Slot
from vivavoce.streaming.errors import Full, UnknownSlot, VivaVoceError
from vivavoce.streaming.sink_cache import RollbackTooFar

from .chat import Message
from .detokenize import StopStrings, TextStream
from .engine import Event, Failed, Finished, LlmEngine, Token
from .hub import Loaded, load
from .layout import prepare
from .model import LanguageModel
from .retrieval import FILE, Replies
from .sampling import Sampling
from .session import Snapshot

MODEL = "chat-en"
LIVELY = Sampling(temperature=0.7, top_p=0.9)
_MARK = "\ue0a9"  # of private use: stands in a rendered prompt where words are cut
_PREFIXES = 4  # beginnings of conversations (instructions) whose computed state is kept


@dataclass(frozen=True)
class Piece:
    """Some more of a reply. text: may be empty; done: None while more follows, then why it is over: the model ended it,
    a stop string came, it reached max_tokens, the cache is full, or the session failed and is closed (`error`)."""

    conversation: Conversation
    text: str
    done: Literal["end", "stop", "length", "full", "failed"] | None = None
    error: VivaVoceError | None = None


@dataclass(eq=False)
class Conversation:
    """One session. messages: what was said, the turn under way not included; everything else is the assistant's."""

    name: str
    slot: Slot
    messages: list[Message] = field(default_factory=list)
    turn: str = ""  # the user's words so far
    fed: int = 0  # of the messages, how many the engine holds, the last of them a reply; 0 before the first reply
    ended: int | None = None  # the token with which the last of those ended by itself
    reply: Reply | None = None  # the last one, running or over, until the user speaks again
    prefix: str = ""  # what stands before the first word, until its state is kept for others


@dataclass(eq=False)
class Reply:
    """A reply as it comes. before: the conversation's `fed` and `ended` without it; ended: the token that ended it;
    marks: how many characters were out after each token."""

    stream: TextStream
    stops: StopStrings
    before: tuple[int, int | None]
    ended: int | None = None
    text: str = ""
    marks: list[int] = field(default_factory=list)
    running: bool = True

    def add(self, text: str) -> str:
        """What of it is shown: replies do not begin with a space."""
        text = text if self.text else text.lstrip()
        self.text += text
        return text


class Assistant:
    """template: how messages become a prompt; sampling: of conversations that do not bring their own; replies: ready
    answers that stand in for the model's own where what was said matches, or None; kept: as for `LanguageModel`."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        slots: int = 8,
        policy: SinkRing | None = None,
        budget: int = 256,
        sampling: Sampling = LIVELY,
        replies: Replies | None = None,
        kept: Kept | None = None,
    ) -> None:
        """Raises BadCheckpoint for a model without a chat template, Full where memory for the slots cannot be had."""
        if loaded.template is None:
            raise BadCheckpoint(f"{loaded.source}: no chat template lies beside it; take a model made for conversation")
        self.tokenizer, self.template, self.source = loaded.tokenizer, loaded.template, loaded.source
        self.sampling, self.replies = sampling, replies
        policy = policy or SinkRing()
        try:
            self.engine = LlmEngine(LanguageModel(loaded.decoder, policy, kept=kept), slots, budget=max(budget, slots))
        except RuntimeError as e:  # torch has no class of its own for a CPU's memory
            if "memory" not in str(e):
                raise
            raise Full(
                f"no memory for {slots} conversation{'s' * (slots > 1)} of {policy.entries} tokens; take fewer, or a "
                "smaller window"
            ) from e
        self._conversations: dict[Slot, Conversation] = {}
        self._prefixes: dict[str, Snapshot] = {}
        self._count = 0

    @classmethod
    def load(
        cls,
        source: str | Path = MODEL,
        *,
        slots: int = 8,
        policy: SinkRing | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        sampling: Sampling = LIVELY,
        kept: Kept | None = None,
    ) -> Assistant:
        """A shipped name, a folder or a Hub id. Raises BadCheckpoint, BadConfig, MissingDependency."""
        loaded = load(source, dtype=dtype, device=device)
        prepare(loaded.decoder)
        path = loaded.source / FILE
        replies = Replies.load(path) if path.is_file() else None
        return cls(loaded, slots=slots, policy=policy, sampling=sampling, replies=replies, kept=kept)

    @property
    def free(self) -> int:
        """How many conversations may still be opened."""
        return self.engine.free

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return self.engine.idle

    def __contains__(self, slot: Slot) -> bool:
        """Whether a conversation is open in it."""
        return slot in self._conversations

    def open(
        self,
        name: str | None = None,
        *,
        instructions: str = "",
        history: Sequence[Message] = (),
        sampling: Sampling | None = None,
    ) -> Conversation:
        """instructions: the system's message; history: what was said before; name: of the session in errors. A prompt
        that others began with too is copied rather than computed again. Raises Full, DoubledRequest, BadConfig."""
        self._count += 1
        name = name or f"conversation {self._count}"
        messages: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
        messages = [_plain(m) for m in (*messages, *history)]
        prefix = self._prefix(messages)
        snapshot = self._prefixes.get(prefix)
        slot = self.engine.open(name, sampling=sampling or self.sampling, like=snapshot)
        self._conversations[slot] = conversation = Conversation(name, slot, messages)
        if snapshot is None and prefix:
            conversation.prefix = prefix
            try:
                self.engine.extend(slot, self._encode(prefix))
            except VivaVoceError:
                self.close(conversation)
                raise
        return conversation

    def hear(self, conversation: Conversation, text: str) -> None:
        """The user's turn as far as it is known, the whole of it each time: what is new or changed is worked on in the
        steps that follow. Raises UnknownSlot, DoubledRequest while a reply runs, PromptTooLong, RollbackTooFar."""
        self._feed(self._open(conversation), text, complete=False)

    def reply(
        self,
        conversation: Conversation,
        text: str | None = None,
        *,
        max_tokens: int = 256,
        stops: Sequence[str] = (),
    ) -> None:
        """The user's turn is over (text: the whole of it; None: as last heard); pieces of the answer come from `step`.
        Raises what `hear` does, and ValueError when nothing was said."""
        conversation = self._open(conversation)
        text = conversation.turn if text is None else text
        if not text.strip():
            raise ValueError(f"{conversation.name!r}: there is nothing to reply to; hear something first")
        ends = StopStrings(stops)
        self._feed(conversation, text, complete=True)
        given = self._ready(conversation, text)
        self.engine.reply(conversation.slot, max_tokens=max_tokens, given=given)
        before = conversation.fed, conversation.ended
        conversation.reply = Reply(TextStream(self.tokenizer), ends, before)

    def cancel(self, conversation: Conversation, *, heard: int | None = None) -> None:
        """Stop the reply, or shorten the last one. heard: how many of its characters reached the user's ear, None for
        all; the model remembers whole tokens of those and no more. When that is nothing, the user's turn goes on: the
        next `hear` is the whole turn, what was said before it included. Raises UnknownSlot, and RollbackTooFar, with
        the reply stopped and all of it remembered."""
        conversation, reply = self._open(conversation), conversation.reply
        if reply is None:
            return
        if reply.marks and heard != 0 and (heard is None or heard >= len(reply.text)):
            if reply.running:
                self.engine.cancel(conversation.slot)
                reply.running = False
                self._settle(conversation)
            return
        keep = sum(mark <= heard for mark in reply.marks) if heard and heard > 0 else 0
        try:
            self.engine.cancel(conversation.slot, keep=keep)
        except RollbackTooFar:
            if reply.running:
                reply.running = False
                self._settle(conversation)
            raise
        if not reply.running:  # it had become messages
            del conversation.messages[-2:]
        conversation.fed, conversation.ended = reply.before
        reply.running, reply.ended, reply.marks = False, None, reply.marks[:keep]
        reply.text = reply.text[: reply.marks[-1] if keep else 0]
        if keep:
            self._settle(conversation)
        else:
            conversation.reply = None

    def close(self, conversation: Conversation) -> None:
        """Raises UnknownSlot."""
        self._open(conversation)
        del self._conversations[conversation.slot]
        self.engine.close(conversation.slot)

    def step(self) -> list[Piece]:
        """One batch of every conversation with work: pieces of replies, in no particular order."""
        pieces = [p for event in self.engine.tick() if (p := self._piece(event))]
        self._keep_prefixes()
        return pieces

    def _piece(self, event: Event) -> Piece | None:
        conversation = self._conversations[event.slot]
        if isinstance(event, Failed):
            del self._conversations[event.slot]
            return Piece(conversation, "", "failed", event.error)
        reply = conversation.reply
        if reply is None or not reply.running:  # a stop string came with the token before
            return None
        if isinstance(event, Token):
            return self._token(conversation, reply, event.token)
        return self._finish(conversation, reply, event)

    def _token(self, conversation: Conversation, reply: Reply, token: int) -> Piece | None:
        ends = self.engine.model.decoder.config.ends
        reply.ended = token if token in ends else None
        text = reply.add(reply.stops.push("" if token in ends else reply.stream.push([token])))
        reply.marks.append(len(reply.text))
        if not reply.stops.stopped:
            return Piece(conversation, text) if text else None
        self.engine.cancel(conversation.slot, keep=sum(mark < len(reply.text) for mark in reply.marks) + 1)
        reply.running = False
        self._settle(conversation)
        return Piece(conversation, text, "stop")

    def _finish(self, conversation: Conversation, reply: Reply, event: Finished) -> Piece:
        text = reply.add(reply.stops.push(reply.stream.finish()) + reply.stops.finish())
        if reply.marks:
            reply.marks[-1] = len(reply.text)
        reply.running = False
        self._settle(conversation)
        return Piece(conversation, text, event.reason)

    def _settle(self, conversation: Conversation) -> None:
        """The turn and what was said of its reply become messages."""
        assert conversation.reply is not None
        conversation.messages += [
            _plain({"role": "user", "content": conversation.turn}),
            _plain({"role": "assistant", "content": conversation.reply.text}),
        ]
        conversation.fed, conversation.ended = len(conversation.messages), conversation.reply.ended

    def _feed(self, conversation: Conversation, text: str, *, complete: bool) -> None:
        """Bring the engine's prompt up to these words of the user's turn."""
        before, after = self._prompt(conversation, text.replace(_MARK, ""))
        tokens = self._encode(before + after if complete else before)
        if conversation.ended is not None and tokens[:1] == [conversation.ended]:
            tokens = tokens[1:]  # the reply brought it already
        if tokens:
            self.engine.revise(conversation.slot, tokens)
        conversation.turn, conversation.prefix = text, ""
        if conversation.reply is not None and not conversation.reply.running:
            conversation.reply = None

    def _prompt(self, conversation: Conversation, text: str) -> tuple[str, str]:
        """What follows the messages that the engine holds: up to the user's words, and from there to the reply's
        beginning."""
        messages = [*conversation.messages, {"role": "user", "content": text + _MARK}]
        if conversation.fed:
            messages[conversation.fed - 1] = {"role": "assistant", "content": _MARK}
        whole = self.template.render(messages)
        parts = whole.split(_MARK)
        if len(parts) != (3 if conversation.fed else 2):
            raise BadCheckpoint(f"{self.source}: its chat template does not show the messages as they are")
        return parts[-2], parts[-1]

    def _prefix(self, messages: Sequence[Message]) -> str:
        """What stands before the user's first word."""
        return self.template.render([*messages, {"role": "user", "content": _MARK}]).partition(_MARK)[0]

    def _keep_prefixes(self) -> None:
        """Remember the states of conversations that hold their beginnings and no more."""
        for conversation in self._conversations.values():
            if conversation.prefix and not self.engine.waiting(conversation.slot):
                self._prefixes[conversation.prefix] = self.engine.snapshot(conversation.slot)
                conversation.prefix = ""
                if len(self._prefixes) > _PREFIXES:
                    del self._prefixes[next(iter(self._prefixes))]

    def _ready(self, conversation: Conversation, text: str) -> list[int] | None:
        """A ready answer's tokens and the one that ends a reply, when one matches."""
        ends = self.engine.model.decoder.config.ends
        if self.replies is None or not ends:
            return None
        said = [m["content"] for m in conversation.messages if m["role"] == "assistant"]
        found = self.replies.find(text, avoid=said)
        return None if found is None else [*self._encode(found.reply), ends[0]]

    def _encode(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs are no characters
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _open(self, conversation: Conversation) -> Conversation:
        if self._conversations.get(conversation.slot) is not conversation:
            raise UnknownSlot(f"{conversation.name!r} is not open; it was closed, or failed")
        return conversation


def _plain(message: Message) -> Message:
    """Without the character that marks where words are cut, should anybody have said it."""
    content = message.get("content")
    return {**message, "content": content.replace(_MARK, "")} if isinstance(content, str) else message
