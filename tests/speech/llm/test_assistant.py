"""Conversations: what the engine holds is what the template says, through barge-ins, and company changes nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.llm.assistant import Assistant, Conversation, Piece
from vivavoce.speech.llm.chat import ChatTemplate
from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.engine import DoubledRequest, Failed, NotFinite, PromptTooLong
from vivavoce.speech.llm.hub import Loaded
from vivavoce.speech.llm.retrieval import Exchange, Replies
from vivavoce.speech.llm.sampling import Sampling
from vivavoce.streaming.cache_policy import SinkRing
from vivavoce.streaming.errors import Full, UnknownSlot
from vivavoce.streaming.sink_cache import RollbackTooFar

CONTROL = ["<s>", "<e>", "<system>", "<user>", "<assistant>"]
TEXT = (
    "<s>{% for m in messages %}<{{ m.role }}>{{ m.content }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GREEDY = Sampling()


def tokenizer() -> Tokenizer:
    alphabet = ["Ġ", *map(chr, range(33, 127))]  # so that what a random model says is text
    out = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    out.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    out.decoder = decoders.ByteLevel()
    out.add_special_tokens(CONTROL)
    return out


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    words = tokenizer()
    torch.manual_seed(3)
    config = LlmConfig(words.get_vocab_size(), 16, 2, 4, 2, 8, 24, tied=True, ends=(words.token_to_id("<e>"),))
    decoder = Decoder(config).double().eval()
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(4 if p.dim() > 1 else 1)
        decoder.embed.weight[words.token_to_id("<s>") :] *= 0.05  # which it rather does not say
    return Loaded(decoder, words, ChatTemplate(TEXT), Path("here"))


def assistant(loaded: Loaded, slots: int = 2, replies: Replies | None = None) -> Assistant:
    return Assistant(loaded, slots=slots, policy=SinkRing(4, 400, 40), sampling=GREEDY, replies=replies)


def run(a: Assistant) -> Iterator[Piece]:
    while not a.idle:
        yield from a.step()


def answer(a: Assistant, c: Conversation, text: str, n: int = 12) -> str:
    a.reply(c, text, max_tokens=n)
    return "".join(p.text for p in run(a) if p.conversation is c)


def test_words_that_come_one_by_one_give_the_reply_of_the_whole(loaded: Loaded) -> None:
    a = assistant(loaded)
    whole, piecewise = a.open(instructions="Be kind."), a.open(instructions="Be kind.")
    expected = answer(a, whole, "how are you today")
    for text in ("how", "how a", "how are", "how art thou", "how are you", "how are you today"):
        a.hear(piecewise, text)
        a.step()
    assert answer(a, piecewise, "how are you today") == expected
    assert whole.messages == piecewise.messages


def test_what_the_model_holds_is_the_template_of_what_was_said(loaded: Loaded) -> None:
    a = assistant(loaded)
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    c = a.open(instructions="Be kind.", history=said)
    for n, text in enumerate(("one", "two", "three")):
        fresh = a.open(instructions="Be kind.", history=c.messages[1:])
        assert answer(a, fresh, text, 5) == answer(a, c, text, 5), n
        a.close(fresh)
    assert [m["content"] for m in c.messages[::2]] == ["Be kind.", "y"] + [m["content"] for m in c.messages[4::2]]


def test_only_what_was_heard_is_remembered(loaded: Loaded) -> None:
    a = assistant(loaded)
    c, short = a.open(), a.open()
    text = answer(a, c, "tell me", 12)
    assert len(text) > 6
    a.cancel(c, heard=5)
    kept = str(c.messages[-1]["content"])
    assert text.startswith(kept)
    assert len(kept) <= 5
    assert answer(a, short, "tell me", len(kept.encode())) == kept
    assert answer(a, c, "go on") == answer(a, short, "go on")


def test_a_reply_of_which_nothing_was_heard_lets_the_turn_go_on(loaded: Loaded) -> None:
    a = assistant(loaded)
    c, plain = a.open(), a.open()
    for conversation in (c, plain):
        answer(a, conversation, "first")
    a.reply(c, "I want", max_tokens=9)
    a.step()
    a.cancel(c, heard=0)
    assert answer(a, c, "I want to go home") == answer(a, plain, "I want to go home")
    assert c.messages == plain.messages
    a.cancel(c, heard=0)  # after its end too
    assert len(c.messages) == 2
    assert answer(a, c, "I want to go home") == plain.messages[-1]["content"]


@pytest.mark.parametrize("heard", [None, 0, 3])
@pytest.mark.parametrize("before", [0, 1])
def test_a_reply_that_had_not_begun_lets_the_turn_go_on(loaded: Loaded, heard: int | None, before: int) -> None:
    a = assistant(loaded)
    c, plain = a.open(instructions="Be kind."), a.open(instructions="Be kind.")
    for conversation in (c, plain)[: 2 * before]:
        answer(a, conversation, "first")
    turn = "long " * 50
    a.reply(c, turn, max_tokens=9)
    assert not a.step()  # it still reads
    a.cancel(c, heard=heard)
    assert answer(a, c, f"{turn} and more") == answer(a, plain, f"{turn} and more")
    assert c.messages == plain.messages


def test_a_reply_too_long_to_be_taken_back_is_remembered_whole(loaded: Loaded) -> None:
    a = Assistant(loaded, slots=1, policy=SinkRing(4, 100, 10), sampling=GREEDY)
    c = a.open()
    answer(a, c, "word " * 18, 20)  # the window is full
    a.reply(c, "please tell me", max_tokens=40)
    text = "".join(p.text for _ in range(25) for p in a.step())
    with pytest.raises(RollbackTooFar):
        a.cancel(c, heard=3)
    assert c.messages[-1]["content"] == text
    assert answer(a, c, "go on")
    assert [m["role"] for m in c.messages] == ["user", "assistant"] * 3


def test_company_that_comes_and_goes_changes_no_reply(loaded: Loaded) -> None:
    a, draw = assistant(loaded, slots=3), random.Random(1)
    said = {f"{i}": [f"question {i} {j}" for j in range(3)] for i in range(8)}
    alone = {}
    for name, turns in said.items():
        c = a.open(name, instructions="Hm.")
        alone[name] = [answer(a, c, text, 7) for text in turns]
        a.close(c)
    waiting, live, got = list(said), dict[str, Conversation](), {name: list[str]() for name in said}
    while waiting or live:
        if waiting and a.free and draw.random() < 0.4:
            name = waiting.pop()
            live[name] = a.open(name, instructions="Hm.")
        for name, c in list(live.items()):
            running = c.reply is not None and c.reply.running
            if running or draw.random() < 0.3:
                continue
            if len(got[name]) == 3:
                a.close(live.pop(name))
            else:
                a.reply(c, said[name][len(got[name])], max_tokens=7)
                got[name].append("")
        for piece in a.step():
            got[piece.conversation.name][-1] += piece.text
    assert got == alone


def test_a_stop_string_ends_the_reply_and_is_not_shown(loaded: Loaded) -> None:
    a = assistant(loaded)
    c = a.open()
    text = answer(a, c, "tell me", 12)
    a.close(c)
    stop = text[4:6]
    c = a.open()
    a.reply(c, "tell me", max_tokens=12, stops=[stop])
    pieces = list(run(a))
    assert "".join(p.text for p in pieces) == text[: text.index(stop)]
    assert pieces[-1].done == "stop"
    assert answer(a, c, "go on")


def test_a_beginning_that_others_have_is_computed_once(loaded: Loaded) -> None:
    a = assistant(loaded, slots=3)
    first = a.open(instructions="A long instruction about many things.")
    list(run(a))
    second = a.open(instructions="A long instruction about many things.")
    assert a.engine.waiting(second.slot) == 0
    assert answer(a, second, "hello") == answer(a, first, "hello")


def test_a_ready_answer_stands_in_where_one_matches(loaded: Loaded) -> None:
    replies = Replies([Exchange(("what is your name",), ("My name is Viva.", "Viva!"))])
    a = assistant(loaded, replies=replies)
    c = a.open()
    assert answer(a, c, "What's your name?", 40) == "My name is Viva."
    assert answer(a, c, "what is your name", 40) == "Viva!"
    assert c.messages[-1] == {"role": "assistant", "content": "Viva!"}
    fresh = a.open(history=c.messages)  # the reply's own end stands there once
    assert answer(a, c, "zzz", 5) == answer(a, fresh, "zzz", 5) != "Viva!"
    assert a.engine._length(c.slot) == a.engine._length(fresh.slot)


def test_a_failed_session_says_so_and_the_others_go_on(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    a = assistant(loaded)
    good, bad = a.open(), a.open()
    a.reply(good, "hello", max_tokens=4)
    a.reply(bad, "hello", max_tokens=4)
    tick, broken = a.engine.tick, NotFinite("broken")
    a.engine.close(bad.slot)
    monkeypatch.setattr(a.engine, "tick", lambda: [Failed(bad.slot, bad.name, broken), *tick()])
    pieces = a.step()
    assert [(p.done, p.error) for p in pieces if p.conversation is bad] == [("failed", broken)]
    monkeypatch.undo()
    assert len(list(run(a))) > 0
    with pytest.raises(UnknownSlot):
        a.hear(bad, "hello")


def test_the_mark_where_words_are_cut_may_be_said(loaded: Loaded) -> None:
    a = assistant(loaded)
    odd, plain = (a.open(history=[{"role": "user", "content": f"x{mark}y"}]) for mark in ("\ue0a9", ""))
    for text in ("one", "two"):
        assert answer(a, odd, f"\ue0a9{text}") == answer(a, plain, text)
    assert odd.messages == plain.messages


def test_mistakes_are_named(loaded: Loaded) -> None:
    a = assistant(loaded, slots=1)
    c = a.open()
    with pytest.raises(Full):
        a.open()
    with pytest.raises(ValueError, match="nothing to reply to"):
        a.reply(c)
    with pytest.raises(ValueError, match="empty stop string"):
        a.reply(c, "hello", stops=[""])
    with pytest.raises(PromptTooLong, match="shorten it"):
        a.reply(c, "w" * 1000)
    a.reply(c, "hello", max_tokens=3)  # what was refused has left nothing behind
    with pytest.raises(DoubledRequest, match="is replying"):
        a.hear(c, "and")
    a.cancel(c)
    a.cancel(c)
    a.close(c)
    with pytest.raises(PromptTooLong):
        a.open("long", instructions="w" * 1000)
    a.close(a.open("long"))
    with pytest.raises(UnknownSlot):
        a.close(c)
    with pytest.raises(Full, match=r"no memory for 2 conversations of .* tokens; take fewer, or a smaller window"):
        Assistant(loaded, slots=2, policy=SinkRing(window=2**44))
    with pytest.raises(BadCheckpoint, match="chat template"):
        Assistant(Loaded(loaded.decoder, loaded.tokenizer, None, Path("here")))
