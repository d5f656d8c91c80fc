"""The engine: sessions that come, stall, change their words, are cancelled and go each get what they get alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder, Projector
from vivavoce.speech.llm.engine import (
    BadToken,
    DoubledRequest,
    Event,
    Failed,
    Finished,
    LlmEngine,
    NotFinite,
    PromptTooLong,
    Token,
)
from vivavoce.speech.llm.model import LanguageModel
from vivavoce.speech.llm.sampling import SamplerState, Sampling, sample
from vivavoce.streaming.cache_policy import CachePolicy, EntropyRetained, KeepAll, SinkRing
from vivavoce.streaming.engine import Slot
from vivavoce.streaming.errors import Full, StateMismatch, UnknownSlot
from vivavoce.streaming.sink_cache import RollbackTooFar

VOCABULARY, END = 30, 29
RING = SinkRing(2, 12, 6)


def machine(policy: CachePolicy = RING, layers: int = 1) -> LanguageModel:
    model = Decoder(LlmConfig(VOCABULARY, 12, layers, heads=2, kv_heads=1, head_dim=6, hidden=16, ends=(END,)))
    draw = torch.Generator().manual_seed(2)
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=draw) * 0.7 + (weight.dim() == 1))
    return LanguageModel(model.double().eval().requires_grad_(False), policy)


def alone(model: LanguageModel, prompt: list[int], tokens: int, sampling: Sampling | None = None, *,
          end: int = END) -> list[int]:  # fmt: skip
    """The reply without an engine: one slot, the prompt in one step, then token by token."""
    state, sampler, out = model.init_state(1), SamplerState.empty(1), list[int]()
    sampler.set_(0, sampling or Sampling())
    x = torch.tensor([prompt])
    while len(out) < tokens and end not in out:
        hidden, _ = model.step(x, state, torch.tensor([x.shape[1]]), torch.tensor([False]))
        out.append(int(sample(model.decoder.logits(hidden[:, -1]), sampler, torch.tensor([0]))))
        x = torch.tensor([out[-1:]])
    return out


def run(engine: LlmEngine) -> list[Event]:
    events: list[Event] = []
    while not engine.idle:
        events += engine.tick()
    return events


def tokens(events: list[Event], slot: Slot) -> list[int]:
    return [e.token for e in events if isinstance(e, Token) and e.slot == slot]


@dataclass
class Life:
    """One session's fate: its prompt arrives in pieces, some of which are wrong at first; it may be cancelled."""

    prompt: list[int]
    pieces: list[list[int]]
    stop_at: int | None
    sampling: Sampling
    slot: Slot | None = None
    asked: bool = False
    got: list[int] = field(default_factory=list)
    over: bool = False


def life(rng: random.Random, *, greedy: bool) -> Life:
    """Each piece is the whole prompt as known by then; a wrong guess has up to three words that will change."""
    prompt = [rng.randrange(END) for _ in range(rng.randint(1, 12))]
    pieces = []
    for end in sorted(rng.sample(range(1, len(prompt) + 1), rng.randint(0, len(prompt) - 1) // 2)):
        guess = [rng.randrange(END) for _ in range(rng.randint(0, 3))] if rng.random() < 0.5 else []
        pieces.append((prompt[:end] + guess)[:12])
    sampling = Sampling() if greedy else Sampling(temperature=1.0, top_k=9, top_p=0.9, seed=rng.randrange(2**40))
    return Life(prompt, [*pieces, prompt], rng.randint(1, 9) if rng.random() < 0.4 else None, sampling)


LONGEST = 16


def play(engine: LlmEngine, lives: list[Life], rng: random.Random) -> None:
    """All of them to their ends: they come, stall, change their words, are cancelled and go as chance has it."""
    waiting, live = list(enumerate(lives)), dict[Slot, Life]()
    while waiting or live:
        while waiting and engine.free and rng.random() < 0.6:
            i, one = waiting.pop(0)
            one.slot = engine.open(f"session {i}", sampling=one.sampling)
            live[one.slot] = one
        for slot, one in list(live.items()):
            if one.pieces and rng.random() < 0.5:
                engine.revise(slot, one.pieces.pop(0))
            elif not one.pieces and not one.asked:
                engine.reply(slot, max_tokens=LONGEST)
                one.asked = True
        for event in engine.tick():
            one = live[event.slot]
            assert not isinstance(event, Failed)
            one.got += [event.token] if isinstance(event, Token) else []
            one.over |= isinstance(event, Finished)
        for slot, one in list(live.items()):
            if one.over or (one.stop_at is not None and len(one.got) >= one.stop_at):
                engine.cancel(slot)
                engine.close(slot)
                del live[slot]


@pytest.mark.parametrize(("policy", "greedy", "sessions"), [
    (RING, True, 100), (RING, False, 30), (KeepAll(window=40), True, 30),
    (EntropyRetained(2, 14, 4, 3, 6, 0.99), True, 30)], ids=str)  # fmt: skip
def test_sessions_at_random_each_get_what_they_get_alone(policy: CachePolicy, greedy: bool, sessions: int) -> None:
    rng, model = random.Random(7), machine(policy, layers=2)
    lives = [life(rng, greedy=greedy) for _ in range(sessions)]
    play(LlmEngine(model, 16, budget=40, chunk=5), lives, rng)
    for one in lives:
        expected = alone(model, one.prompt, LONGEST, one.sampling)
        assert one.got == (expected[: one.stop_at] if one.stop_at is not None else expected)
    assert any(END in one.got for one in lives)
    assert any(len(one.prompt) + len(one.got) > 20 for one in lives)  # past the window
    assert sum(one.stop_at is not None and len(one.got) == one.stop_at for one in lives) >= sessions / 10


def test_in_single_precision_company_changes_no_token_that_is_clearly_ahead() -> None:
    rng, model = random.Random(1), machine(layers=2)
    model = LanguageModel(model.decoder.float(), RING)
    lives, compared = [life(rng, greedy=True) for _ in range(100)], 0
    play(LlmEngine(model, 16, budget=40, chunk=5), lives, rng)
    for one in lives:
        state, x = model.init_state(1), one.prompt
        for token in one.got:
            hidden, _ = model.step(torch.tensor([x]), state, torch.tensor([len(x)]), torch.tensor([False]))
            best, second = model.decoder.logits(hidden[0, -1]).topk(2).values.tolist()
            if best - second <= 1e-4:
                break
            assert token == int(model.decoder.logits(hidden[0, -1]).argmax())
            compared, x = compared + 1, [token]
    assert compared > 0.9 * sum(len(one.got) for one in lives)


def test_turns_of_one_session_run_on_past_the_window() -> None:
    model, rng = machine(), random.Random(0)
    engine, heard = LlmEngine(model, 2), list[int]()
    slot = engine.open("a")
    for _ in range(8):
        prompt = [rng.randrange(END) for _ in range(7)]
        engine.extend(slot, prompt)
        engine.reply(slot, max_tokens=4, ends=())
        reply = tokens(run(engine), slot)
        heard += prompt
        assert reply == alone(model, heard, 4, end=-1)
        heard += reply
    assert len(heard) == 88


def test_only_what_was_heard_of_a_cancelled_reply_is_remembered() -> None:
    model = machine()
    engine = LlmEngine(model, 1)
    slot = engine.open("a")
    engine.extend(slot, [1, 2, 3])
    engine.reply(slot, max_tokens=6, ends=())
    said = tokens(run(engine), slot)
    engine.cancel(slot, keep=2)
    engine.extend(slot, [4, 5])
    engine.reply(slot, max_tokens=3, ends=())
    assert tokens(run(engine), slot) == alone(model, [1, 2, 3, *said[:2], 4, 5], 3, end=-1)


def test_a_cancelled_reply_can_be_asked_for_again_with_more_words() -> None:
    model = machine()
    engine = LlmEngine(model, 1)
    slot = engine.open("a")
    engine.revise(slot, [1, 2, 3])
    engine.reply(slot)
    for _ in range(3):
        engine.tick()
    engine.cancel(slot, keep=0)
    engine.revise(slot, [1, 2, 7, 8])
    engine.reply(slot, max_tokens=5)
    assert tokens(run(engine), slot) == alone(model, [1, 2, 7, 8], 5)


def test_words_are_worked_on_before_the_turn_ends_and_one_token_is_left_then() -> None:
    engine = LlmEngine(machine(), 1)
    slot = engine.open("a")
    engine.extend(slot, [1, 2, 3, 4, 5])
    assert run(engine) == []
    engine.reply(slot, max_tokens=1)
    assert [type(e) for e in engine.tick()] == [Token, Finished]


def test_a_long_prompt_does_not_hold_up_a_running_reply() -> None:
    engine = LlmEngine(machine(SinkRing(2, 100, 20)), 3, budget=8, chunk=8)
    other, long, talking = (engine.open(name) for name in "abc")  # the last to come is not the last to be served
    engine.extend(talking, [1])
    engine.reply(talking, max_tokens=10, ends=())
    engine.tick()
    engine.extend(other, [3] * 50)
    engine.extend(long, [2] * 50)
    engine.reply(long, max_tokens=1, ends=())
    for tick in range(8):
        events = engine.tick()
        assert len(tokens(events, talking)) == 1
        assert bool(tokens(events, long)) == (tick == 7)  # 7 a tick beside the reply, before what nobody waits for


def test_a_shared_prompt_is_copied_and_each_goes_its_own_way() -> None:
    model = machine()
    engine = LlmEngine(model, 3)
    system = engine.open("system")
    engine.extend(system, [5, 6, 7, 8, 9])
    run(engine)
    forks = [engine.open(f"fork {i}", like=system, sampling=Sampling(1.0, seed=i)) for i in range(2)]
    for i, slot in enumerate(forks):
        engine.extend(slot, [i, i])
        engine.reply(slot, max_tokens=6)
    events = run(engine)
    for i, slot in enumerate(forks):
        assert tokens(events, slot) == alone(model, [5, 6, 7, 8, 9, i, i], 6, Sampling(1.0, seed=i))


@pytest.mark.parametrize("policy", [RING, KeepAll(window=40), EntropyRetained(2, 14, 4, 3, 6, 0.99)], ids=str)
def test_embeddings_stand_among_tokens_and_company_changes_nothing(policy: CachePolicy, tmp_path: Path) -> None:
    model = machine(policy, layers=2)
    frames = Projector(5, 12).double()(torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).double()).detach()
    engine = LlmEngine(model, 3, chunk=4)
    mixed, words, again = (engine.open(name) for name in ("mixed", "words", "again"))
    engine.extend(mixed, [1, 2])
    engine.extend(mixed, frames[:6])
    engine.extend(words, [4, 5, 6])
    engine.reply(words, max_tokens=12, ends=())
    events = engine.tick()
    engine.extend(mixed, [3, *frames[6:]])
    engine.revise(again, [1, 2, *frames.flip(0)])
    events += engine.tick()
    engine.revise(again, [1, 2, *frames[:6].clone(), 3, *frames[6:]])
    for slot in (mixed, again):
        engine.reply(slot, max_tokens=8, ends=())
    engine.snapshot(mixed).save(tmp_path)
    events += run(engine)
    assert tokens(events, words) == alone(model, [4, 5, 6], 12, end=-1)
    state, out = model.init_state(1), list[int]()
    for part in (torch.tensor([[1, 2]]), frames[None, :6], torch.tensor([[3]]), frames[None, 6:]):
        n = torch.tensor([part.shape[1]])
        hidden, _ = model.step(part, state, n, n < 0)
    while len(out) < 8:
        out.append(int(model.decoder.logits(hidden[0, -1]).argmax()))
        hidden, _ = model.step(torch.tensor([out[-1:]]), state, torch.tensor([1]), torch.tensor([False]))
    assert tokens(events, mixed) == tokens(events, again) == out
    other = LlmEngine(machine(policy, layers=2), 1)
    late = other.open("late", like=other.load(tmp_path))
    assert tokens(run(other), late) == out


def test_embeddings_of_another_width_are_refused() -> None:
    engine = LlmEngine(machine(), 1)
    slot = engine.open("a")
    for wrong in (torch.zeros(2, 5), torch.zeros(2, 12, dtype=torch.int64), [torch.zeros(())]):
        with pytest.raises(BadToken, match="takes 12 real numbers, so put the encoder's frames through a Projector"):
            engine.extend(slot, wrong)
    assert engine.idle


def test_a_snapshot_goes_on_in_another_engine_after_a_restart(tmp_path: Path) -> None:
    model, draw = machine(), Sampling(temperature=1.0, seed=3)
    engine = LlmEngine(model, 2)
    engine.open("first")
    slot = engine.open("a", sampling=draw)
    engine.extend(slot, [1, 2, 3, 4])
    engine.reply(slot, max_tokens=12, ends=())
    before = [e for _ in range(5) for e in engine.tick()]
    engine.snapshot(slot).save(tmp_path)
    other = LlmEngine(machine(), 3)
    again = other.open("a", like=other.load(tmp_path))
    assert tokens(before, slot) + tokens(run(other), again) == tokens(before, slot) + tokens(run(engine), slot)
    with pytest.raises(StateMismatch):
        LlmEngine(machine(SinkRing(2, 13, 6)), 1).load(tmp_path)
    (tmp_path / "session.json").write_text('{"ends": [], "mood": "good"}')
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StateMismatch, match="is not a saved session"):
            other.load(folder)


def test_a_session_with_scores_that_are_no_numbers_fails_alone_and_leaves_nothing_behind() -> None:
    model = machine()
    engine = LlmEngine(model, 2)
    good, bad = engine.open("good"), engine.open("bad")
    for slot in (good, bad):
        engine.extend(slot, [1, 2, 3])
    run(engine)
    engine._engine.state.decoder.cache.values[0][bad.index, 0] = float("nan")
    for slot in (good, bad):
        engine.reply(slot, max_tokens=6)
    events = run(engine)
    (failed,) = [e for e in events if isinstance(e, Failed)]
    assert (failed.slot, failed.request) == (bad, "bad")
    assert isinstance(failed.error, NotFinite)
    assert "not finite" in str(failed.error)
    assert tokens(events, good) == alone(model, [1, 2, 3], 6)
    with pytest.raises(UnknownSlot):
        engine.extend(bad, [1])
    heir = engine.open("bad")
    assert heir.index == bad.index
    engine.extend(heir, [4])
    engine.reply(heir, max_tokens=4)
    assert tokens(run(engine), heir) == alone(model, [4], 4)


def test_a_cache_that_drops_nothing_ends_the_reply_when_it_is_full() -> None:
    model = machine(KeepAll(window=6))
    engine = LlmEngine(model, 1)
    slot = engine.open("a")
    engine.extend(slot, [1, 2, 3])
    engine.reply(slot, max_tokens=50, ends=())
    events = run(engine)
    assert events[-1] == Finished(slot, "a", "full")
    assert tokens(events, slot) == alone(machine(KeepAll(window=60)), [1, 2, 3], 4, end=-1)
    with pytest.raises(PromptTooLong, match="full"):
        engine.reply(slot)
    with pytest.raises(PromptTooLong, match="does not fit the 6"):
        engine.extend(slot, [1])
    engine.cancel(slot, keep=1)
    engine.extend(slot, [9])
    engine.reply(slot, max_tokens=1, ends=())
    assert tokens(run(engine), slot) == alone(
        machine(KeepAll(window=60)), [1, 2, 3, *tokens(events, slot)[:1], 9], 1, end=-1
    )


def test_mistakes_are_refused_by_name_and_change_nothing() -> None:
    model = machine()
    engine = LlmEngine(model, 2)
    slot = engine.open("a")
    with pytest.raises(DoubledRequest, match="'a' is already open"):
        engine.open("a")
    with pytest.raises(ValueError, match="no prompt"):
        engine.reply(slot)
    engine.extend(slot, [1, 2, 3])
    with pytest.raises(PromptTooLong, match="15 tokens does not fit the 14"):
        engine.extend(slot, [1] * 12)
    for wrong in (-1, VOCABULARY):
        with pytest.raises(BadToken, match=f"token {wrong} is not among the model's 0 to 29"):
            engine.revise(slot, [1, wrong])
    engine.open("b")
    with pytest.raises(Full):
        engine.open("c")
    run(engine)
    engine.reply(slot, max_tokens=5)
    with pytest.raises(DoubledRequest, match="is replying"):
        engine.reply(slot)
    with pytest.raises(DoubledRequest, match="is replying"):
        engine.extend(slot, [1])
    assert tokens(run(engine), slot) == alone(model, [1, 2, 3], 5)
    engine.close(slot)
    for call in (engine.close, engine.cancel, engine.reply, engine.snapshot):
        with pytest.raises(UnknownSlot, match="not open"):
            call(slot)
    assert engine.open("a").index == slot.index
    with pytest.raises(UnknownSlot, match="not open"):
        engine.extend(slot, [1])
    with pytest.raises(ValueError, match="budget of 3"):
        LlmEngine(model, 4, budget=3)


def test_words_that_changed_too_long_ago_are_refused() -> None:
    engine = LlmEngine(machine(SinkRing(1, 14, 2)), 1)
    slot = engine.open("a")
    engine.extend(slot, [1] * 14)
    engine.reply(slot, max_tokens=2, ends=())
    run(engine)
    prompt = [2, 3, 4, 5, 6, 7]
    engine.extend(slot, prompt)
    run(engine)
    with pytest.raises(RollbackTooFar, match="cannot be taken back"):
        engine.revise(slot, [9])
    engine.revise(slot, [*prompt[:4], 8])
    engine.reply(slot, max_tokens=1)
    assert len(tokens(run(engine), slot)) == 1


def test_a_reply_that_is_given_is_said_as_it_is_and_remembered_as_if_it_had_been_drawn() -> None:
    model, given = machine(), [7, 3, 11]
    engine = LlmEngine(model, 2)
    slot, other = engine.open("given"), engine.open("drawn")
    engine.extend(slot, [1, 2])
    engine.extend(other, [1, 2])
    engine.reply(slot, max_tokens=6, ends=(), given=given)
    engine.reply(other, max_tokens=4, ends=())
    events = run(engine)
    assert tokens(events, slot) == given + alone(model, [1, 2, *given], 3, end=-1)
    assert tokens(events, other) == alone(model, [1, 2], 4, end=-1)
    engine.extend(slot, [5])
    with pytest.raises(BadToken):
        engine.reply(slot, given=[VOCABULARY])
    engine.reply(slot, max_tokens=1, given=[END, 1])
    assert tokens(run(engine), slot) == [END]


def test_waiting_tells_what_ticks_have_still_to_do() -> None:
    engine = LlmEngine(machine(), 1, chunk=4)
    slot = engine.open("a")
    engine.extend(slot, [1] * 10)
    assert engine.waiting(slot) == 9  # the last one waits for the reply
    engine.tick()
    assert engine.waiting(slot) == 5
    run(engine)
    assert engine.waiting(slot) == 0
    engine.close(slot)
    with pytest.raises(UnknownSlot):
        engine.waiting(slot)
