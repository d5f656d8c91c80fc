"""The thinking room: prompts are compared with what the assistant remembers, and only the difference is work."""

from __future__ import annotations

from typing import Any, cast

import pytest

from vivavoce.server import signals
from vivavoce.server.rooms.thinking import ThinkingRoom, parts
from vivavoce.speech.llm.assistant import Assistant, Conversation, Piece
from vivavoce.streaming.engine import Slot
from vivavoce.streaming.errors import Full, VivaVoceError

Told = list[tuple[Any, ...]]


class Parrot:
    """Stands in for the assistant, and writes down what it is told. It answers word by word."""

    def __init__(self, free: int = 2) -> None:
        self.free, self.told, self.broken = free, Told(), False
        self.words: dict[Conversation, list[str]] = {}
        self.open_ones: list[Conversation] = []

    @property
    def idle(self) -> bool:
        return not self.words

    def open(self, *, instructions: str, history: list[Any]) -> Conversation:
        if len(self.open_ones) == self.free:
            raise Full("no slot is free")
        self.told.append(("open", instructions, [m["content"] for m in history]))
        self.open_ones.append(conversation := Conversation("c", Slot(len(self.told), 0)))
        return conversation

    def hear(self, conversation: Conversation, text: str) -> None:
        self.told.append(("hear", text))

    def reply(self, conversation: Conversation, text: str, *, max_tokens: int) -> None:
        if self.broken:
            raise VivaVoceError("broken")
        self.told.append(("reply", text, max_tokens))
        self.words[conversation] = ["well ", "so ", "it ", "is"]

    def cancel(self, conversation: Conversation, *, heard: int | None = None) -> None:
        self.told.append(("cancel", heard))
        self.words.pop(conversation, None)

    def close(self, conversation: Conversation) -> None:
        self.open_ones.remove(conversation)
        self.words.pop(conversation, None)

    def step(self) -> list[Piece]:
        pieces = []
        for conversation, words in list(self.words.items()):
            pieces.append(Piece(conversation, words.pop(0), None if words else "end"))
            if not words:
                del self.words[conversation]
        return pieces


def prompt(*said: str, system: str = "be brief", **fields: Any) -> signals.Prompt:
    """Turn about, the user first."""
    messages = [{"role": "system", "content": system}]
    messages += [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)]
    return signals.Prompt(tuple(messages), **fields)


class Session:
    def __init__(self, room: ThinkingRoom) -> None:
        self.room, self.got = room, list[Any]()
        self.thinking = room.open(self.got.append)

    def run(self, ticks: int = 99) -> str:
        """What is said meanwhile."""
        before = len(self.got)
        calls, self.room._inbox = self.room._inbox, []
        for call in calls:
            call()
        while ticks and self.room.tick():
            ticks -= 1
        return "".join(p.text for p in self.got[before:] if isinstance(p, signals.Said))


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
def session(parrot: Parrot) -> Session:
    return Session(ThinkingRoom(cast(Assistant, parrot)))


def test_words_are_heard_while_they_are_said_and_then_answered(parrot: Parrot, session: Session) -> None:
    session.thinking.prefill(prompt("what"))
    session.thinking.prefill(prompt("what time"))
    session.thinking.start(3, prompt("what time is it", max_tokens=9))
    assert session.run() == "well so it is"
    assert session.got[-1] == signals.Replied(3, "end")
    assert parrot.told == [("open", "be brief", []), ("hear", "what"), ("hear", "what time"),
                           ("reply", "what time is it", 9)]  # fmt: skip


def test_the_next_turn_needs_nothing_told_again(parrot: Parrot, session: Session) -> None:
    session.thinking.start(1, prompt("hello"))
    session.run()
    parrot.told.clear()
    session.thinking.start(2, prompt("hello", "well so it is", "and now"))
    session.run()
    assert [told[0] for told in parrot.told] == ["reply"]


def test_of_an_interrupted_reply_only_what_was_heard_is_remembered(parrot: Parrot, session: Session) -> None:
    session.thinking.start(1, prompt("hello"))
    assert session.run(ticks=3) == "well so it "
    session.thinking.cancel(1)
    session.thinking.prefill(prompt("hello", "well", "stop"))
    session.run()
    assert parrot.told[2:] == [("cancel", None), ("cancel", 4), ("hear", "stop")]
    assert not any(isinstance(p, signals.Replied) for p in session.got)


def test_a_reply_of_which_nothing_was_heard_lets_the_turn_go_on(parrot: Parrot, session: Session) -> None:
    session.thinking.start(1, prompt("what is"))
    session.run(ticks=1)
    session.thinking.cancel(1)
    messages = [{"role": "user", "content": "what is"}, {"role": "user", "content": "the time"}]
    session.thinking.start(2, signals.Prompt(({"role": "system", "content": "be brief"}, *messages)))
    session.run()
    assert [told for told in parrot.told if told[0] in ("cancel", "reply")][1:] == [
        ("cancel", None), ("cancel", 0), ("reply", "what is the time", 256)]  # fmt: skip


def test_any_other_change_begins_anew(parrot: Parrot, session: Session) -> None:
    session.thinking.start(1, prompt("hello"))
    session.run()
    session.thinking.start(2, prompt("other", "things", "said", system="be long"))
    session.run()
    assert parrot.told[-2] == ("open", "be long", ["other", "things"])
    assert len(parrot.open_ones) == session.room.taken == 1


def test_a_full_room_says_so_and_gives_places_back(parrot: Parrot, session: Session) -> None:
    others = [Session(session.room) for _ in range(2)]
    for i, other in enumerate([session, *others]):
        other.thinking.start(i, prompt("hello"))
    session.run()
    assert isinstance(others[1].got[-1], signals.NoReply)
    session.thinking.close()
    others[1].thinking.start(9, prompt("hello"))
    assert others[1].run() == "well so it is"


def test_a_model_that_fails_fails_its_replies_only(parrot: Parrot, session: Session) -> None:
    parrot.broken = True
    session.thinking.start(1, prompt("hello"))
    session.run()
    assert session.got == [signals.NoReply(1, "broken")]
    parrot.broken = False
    session.thinking.start(2, prompt("hello"))
    assert session.run() == "well so it is"


def test_tools_are_left_out_and_silence_is_filled() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{}]}
    result = {"role": "tool", "content": "42", "tool_call_id": "c"}
    said = signals.Prompt(({"role": "user", "content": "a"}, call, result, {"role": "assistant", "content": "b"}))
    assert parts(said) == ("", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "Go on.")
