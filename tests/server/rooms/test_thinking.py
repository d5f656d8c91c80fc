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


@pytest.fixture
def sessions(session: Session) -> list[Session]:
    """Three in a room with two places."""
    return [session, Session(session.room), Session(session.room)]


def test_more_conversations_than_places_are_answered_and_nothing_said_is_lost(
    parrot: Parrot, sessions: list[Session]
) -> None:
    for i, session in enumerate(sessions):
        session.thinking.start(i, prompt("hello"))
        assert session.run() == "well so it is"
    assert len(parrot.open_ones) == 2
    parrot.told.clear()
    sessions[1].thinking.start(7, prompt("hello", "well so it is", "and now"))
    sessions[0].thinking.start(8, prompt("hello", "well so it is", "and now"))  # 1 is busy: in the place of 2
    sessions[0].run()
    told = [("reply", "and now", 256), ("open", "be brief", ["hello", "well so it is"]), ("reply", "and now", 256)]
    assert parrot.told == told
    for session in sessions:
        session.thinking.close()
        session.run()
    assert parrot.open_ones == []
    assert session.room.taken == 0


def test_who_asks_while_all_places_think_is_answered_when_one_has_finished(
    parrot: Parrot, sessions: list[Session]
) -> None:
    late = Session(sessions[0].room)
    for i, session in enumerate([*sessions, late]):
        session.thinking.start(i, prompt("hello"))
    assert late.run(ticks=1) == ""
    assert [len(session.got) for session in [*sessions, late]] == [1, 1, 0, 0]
    sessions[0].thinking.cancel(0)
    late.run(ticks=1)
    assert [len(session.got) for session in [*sessions, late]] == [1, 2, 1, 0]
    late.run()
    assert sessions[2].got[-1] == signals.Replied(2, "end")
    assert late.got[-1] == signals.Replied(3, "end")


def test_a_reply_that_waits_for_a_place_may_be_cancelled(parrot: Parrot, sessions: list[Session]) -> None:
    late = Session(sessions[0].room)
    for i, session in enumerate([*sessions, late]):
        session.thinking.start(i, prompt("hello"))
    late.run(ticks=1)
    sessions[2].thinking.cancel(2)
    late.thinking.close()
    late.run()
    assert sessions[2].got == late.got == []
    assert len(parrot.open_ones) == 2


def test_what_is_only_prefilled_takes_no_ones_place_nor_the_last(parrot: Parrot, sessions: list[Session]) -> None:
    for session in sessions:
        session.thinking.prefill(prompt("what"))
        session.run()
    assert parrot.told == [("open", "be brief", []), ("hear", "what")]
    sessions[1].thinking.start(1, prompt("what time"))
    assert sessions[1].run() == "well so it is"
    sessions[2].thinking.prefill(prompt("what"))
    sessions[0].thinking.prefill(prompt("what is"))
    sessions[0].run()
    assert parrot.told[-1] == ("hear", "what is")  # and the first still has its place


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
