"""The lean way of a token alone equals the plain one: in any decoder, in company, past the window, taken back."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from streams import one_pass
from torch import Tensor

from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.layout import prepare
from vivavoce.speech.llm.lean import hide
from vivavoce.speech.llm.model import DecoderState, LanguageModel
from vivavoce.speech.nn.packed import supported
from vivavoce.streaming.cache_policy import CachePolicy, KeepAll, SinkRing, Window
from vivavoce.streaming.eight_bits import Kept

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama with biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "qwen2": {"qkv_bias": True, "tied": True},
    "qwen3": {"qk_norm": True, "tied": True, "eps": 1e-2},  # an eps that cannot be left out unnoticed
}
SLOTS = 4


def decoder(**options: Any) -> Decoder:
    model = Decoder(LlmConfig(30, 12, 2, heads=4, kv_heads=2, head_dim=6, hidden=20, **options)).double()
    draw = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=draw) * 0.5 + (weight.dim() == 1))
    return model.eval().requires_grad_(False)


def both(model: Decoder, policy: CachePolicy) -> tuple[LanguageModel, LanguageModel]:
    """The lean way, soon replayed, and the plain one."""
    lean, plain = LanguageModel(model, policy), LanguageModel(model, policy)
    assert lean.lean is not None
    lean.lean.replays.after = 2
    plain.turned, plain.lean = False, None
    return lean, plain


def step(model: LanguageModel, state: DecoderState, x: Tensor, valid: Tensor) -> Tensor:
    return model.step(x, state, valid, valid < 0)[0]


@pytest.mark.parametrize("policy", [SinkRing(2, 6, 3), Window(window=5, slack=1), KeepAll(window=200)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_plain_way(kind: str, policy: CachePolicy) -> None:
    lean, plain = both(decoder(**KINDS[kind]), policy)
    mine, other = lean.init_state(SLOTS), plain.init_state(SLOTS)
    rng, draw = random.Random(0), torch.Generator().manual_seed(1)
    for turn in range(40):
        most = rng.choice((1, 1, 1, 3))
        valid = torch.tensor([rng.randint(0, most) for _ in range(SLOTS)])
        x = torch.randint(0, 30, (SLOTS, most), generator=draw)
        torch.testing.assert_close(step(lean, mine, x, valid), step(plain, other, x, valid), rtol=0, atol=1e-10)
        if turn % 7 == 6:
            back = mine.cache.length - policy.floor(mine.cache.high)
            back = torch.minimum(back, torch.tensor([1, 0, policy.slack, 0]))
            for state in (mine, other):
                state.cache.rollback(policy, back)


@pytest.mark.parametrize("slots", [1, 3])
def test_sessions_that_are_alike_to_the_token_equal_the_plain_way(slots: int) -> None:
    lean, plain = both(decoder(qk_norm=True), SinkRing(2, 6, 3))
    mine, other, ones = lean.init_state(slots), plain.init_state(slots), torch.ones(slots, dtype=torch.int64)
    for i, x in enumerate(torch.randint(0, 30, (30, slots, 1), generator=torch.Generator().manual_seed(4))):
        torch.testing.assert_close(step(lean, mine, x, ones), step(plain, other, x, ones), rtol=0, atol=1e-10)
        assert torch.equal(mine.cache.life, other.cache.life)
        if i % 8 == 7:
            for state in (mine, other):
                state.cache.rollback(lean.policy, 2 * ones)


@pytest.mark.skipif("fp16" not in supported(), reason="this CPU cannot run fp16 matrices")
@pytest.mark.parametrize("sessions", [1, 3])
def test_replays_of_packed_layers_change_nothing(sessions: int) -> None:
    model = prepare(decoder(qk_norm=True).float(), "fp16")
    replayed, called = (LanguageModel(model, SinkRing(2, 6, 3)) for _ in range(2))
    assert replayed.lean is not None
    assert called.lean is not None
    replayed.lean.replays.after, called.lean.replays.after = 0, 1000
    states = replayed.init_state(sessions), called.init_state(sessions)
    for x in torch.randint(0, 30, (30, sessions), generator=torch.Generator().manual_seed(4)):
        assert torch.equal(replayed.decode(x, states[0]), called.decode(x, states[1]))
    assert all(map(torch.equal, states[0].to_dict().values(), states[1].to_dict().values()))


@pytest.mark.parametrize("kept", ["int8", "fp8"])
def test_a_session_alone_in_eight_bits_steps_as_it_runs_offline(kept: Kept) -> None:
    model, tokens = LanguageModel(decoder(), SinkRing(2, 6, 3), kept=kept), torch.arange(20)
    state, one = model.init_state(1), torch.tensor([1])
    stepped = [step(model, state, x[None, None], one)[0] for x in tokens]
    torch.testing.assert_close(torch.cat(stepped), one_pass(model, tokens), rtol=0, atol=1e-10)


def test_embeddings_go_in_like_tokens() -> None:
    model = decoder(qk_norm=True)
    lean, _ = both(model, SinkRing(2, 6, 3))
    tokens, one = torch.arange(12)[None], torch.tensor([1])
    a, b = lean.init_state(1), lean.init_state(1)
    for i in range(12):
        x = tokens[:, i : i + 1]
        assert torch.equal(step(lean, a, x, one), step(lean, b, model.embed(x), one))


@pytest.mark.parametrize("policy", [SinkRing(2, 6, 3), SinkRing(2, 6, 1), KeepAll(window=9)], ids=str)
def test_a_full_session_that_idles_beside_others_loses_nothing_that_it_may_take_back(policy: CachePolicy) -> None:
    """What idle rows compute is written somewhere: never to an entry that can still be seen."""
    lean, _ = both(decoder(qk_norm=True), policy)
    full = policy.limit or policy.entries
    tokens, n = torch.randint(0, 30, (3, full), generator=torch.Generator().manual_seed(2)), torch.full((3,), full)
    company, alone = lean.init_state(3), lean.init_state(3)
    for state in (company, alone):
        step(lean, state, tokens, n)
        state.cache.rollback(policy, torch.tensor([1, 0, 1]))
    step(lean, company, tokens[:, :1], torch.tensor([1, 0, 1]))
    middle = torch.tensor([0, 1, 0])
    for state in (company, alone):
        state.cache.rollback(policy, middle * (full - policy.floor(n)).clamp(max=2))
    found, expected = (step(lean, state, tokens[:, :1], middle)[1] for state in (company, alone))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_hidden_entries_count_for_nothing_and_a_row_that_sees_none_stays_finite() -> None:
    bias = hide(torch.tensor([[True, False], [False, False]]), torch.float32)
    assert bias[0].softmax(0).tolist() == [1, 0]
    assert bias[1].softmax(0).tolist() == [0.5, 0.5]
