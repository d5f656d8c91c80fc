"""The decoder on its cache gives what the definition gives: sinks and the last W tokens, at positions in the cache."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from streams import one_pass, streamed, worst
from torch import Tensor

from vivavoce.kernels import registry
from vivavoce.kernels.lazy import installed
from vivavoce.kernels.rotary import rotary, rotary_table
from vivavoce.speech.llm import decoder as layers
from vivavoce.speech.llm import model as module
from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder, Projector
from vivavoce.speech.llm.model import DecoderState, LanguageModel
from vivavoce.speech.llm.turns import turn
from vivavoce.streaming.cache_policy import CachePolicy, EntropyRetained, KeepAll, SinkRing, Window
from vivavoce.streaming.eight_bits import Kept
from vivavoce.streaming.sink_cache import CacheOverflow

TOKENS = 40


def decoder(layers: int = 2, *, dtype: torch.dtype = torch.float64, **options: Any) -> Decoder:
    """Random weights large enough that every token matters."""
    model = Decoder(LlmConfig(TOKENS, width=16, layers=layers, heads=4, kv_heads=2, head_dim=6, hidden=24, **options))
    draw = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=draw) * 0.4 + (weight.dim() == 1))
    return model.to(dtype).eval().requires_grad_(False)


def text(*lengths: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, TOKENS, (n,), generator=draw) for n in lengths]


@torch.no_grad()
def defined(model: Decoder, tokens: Tensor, sinks: int, window: int) -> Tensor:
    """StreamingLLM in one pass without a cache: query t sees the sinks and the last `window`, itself included, each at
    its rank among those. One query at a time."""
    n = len(tokens)
    table = rotary_table(model.config.frequencies(), n)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for t in range(n):
            seen = torch.tensor([i for i in range(t + 1) if i < sinks or i > t - window])
            ranks = torch.arange(len(seen))
            keys = rotary(k[seen], table, ranks).repeat_interleave(2, 1)
            query = rotary(q[t : t + 1], table, ranks[-1:])[0]
            weights = (torch.einsum("hd,khd->hk", query, keys) / q.shape[-1] ** 0.5).softmax(-1)
            out[t] = torch.einsum("hk,khd->hd", weights, v[seen].repeat_interleave(2, 1))
        return out

    return model.logits(model.run(tokens, attend))


def ragged(model: LanguageModel, streams: list[Tensor], state: DecoderState, rng: random.Random, *, most: int,
           start: list[int] | None = None) -> list[Tensor]:  # fmt: skip
    """Logits of all tokens, fed to the slots in ragged pieces with pauses."""
    at = list(start or [0] * len(streams))
    out: list[list[Tensor]] = [[] for _ in streams]
    while any(i < len(s) for i, s in zip(at, streams, strict=True)):
        take = [min(rng.choice([0, 1, 1, most]), len(s) - i) for i, s in zip(at, streams, strict=True)]
        x = torch.full((len(streams), max(max(take), 1)), 1)
        for row, (s, i, n) in enumerate(zip(streams, at, take, strict=True)):
            x[row, :n] = s[i : i + n]
        hidden, count = model.step(x, state, torch.tensor(take), torch.zeros(len(streams), dtype=torch.bool))
        assert count.tolist() == take
        for row, n in enumerate(take):
            out[row].append(model.decoder.logits(hidden[row, :n]))
            at[row] += n
    return [torch.cat(parts) if parts else torch.empty(0) for parts in out]


def test_one_pass_without_a_cache_is_causal_attention() -> None:
    model, (tokens,) = decoder(qk_norm=True, qkv_bias=True), text(12)
    assert worst(model.logits(model(tokens[None]))[0], defined(model, tokens, 0, 12)) <= 1e-12


@pytest.mark.parametrize(("sinks", "window", "slack"), [(2, 6, 3), (4, 5, 0), (0, 4, 7)])
def test_logits_after_eviction_are_those_of_the_definition(sinks: int, window: int, slack: int) -> None:
    model, streams = decoder(qk_norm=True), text(45, 3, 31)
    machine = LanguageModel(model, SinkRing(sinks, window, slack))
    got = ragged(machine, streams, machine.init_state(3), random.Random(1), most=9)
    for logits, tokens in zip(got, streams, strict=True):
        assert worst(logits, defined(model, tokens, sinks, window)) <= 1e-10


def test_four_million_tokens_later_nothing_has_changed() -> None:
    """Positions are those within the cache: only the count of tokens differs."""
    machine, (tokens, more) = LanguageModel(decoder(), SinkRing(2, 6, 4)), text(30, 20)
    state = machine.init_state(1)
    one_step = (torch.tensor([30]), torch.tensor([False]))
    machine.step(tokens[None], state, *one_step)
    late, turns = state.take(torch.tensor([0])), 4_000_000 // 10 * 10  # whole rounds of the ring
    for leaf in (late.cache.length, late.cache.high, late.cache.born[:, 2:], late.cache.died[:, 2:]):
        leaf += turns
    for turned, keys in zip(late.cache.turned, late.cache.keys, strict=True):  # as they would have been by then
        turned.copy_(turn(keys.transpose(1, 2), machine.turns(late.cache.born)).transpose(1, 2))
    now, then = (
        [machine.step(x[None, None], s, torch.tensor([1]), torch.tensor([False]))[0] for x in more]
        for s in (state, late)
    )
    assert int(late.cache.length) == 4_000_050
    torch.testing.assert_close(torch.cat(then), torch.cat(now), rtol=0, atol=1e-10)
    assert late.nbytes == machine.init_state(1).nbytes


def test_one_layer_after_eviction_equals_a_fresh_forward_over_the_sinks_and_the_last_window() -> None:
    """Of one layer only: above it, states already hold what has left, in the paper as here."""
    model, streams = decoder(layers=1), text(40, 23)
    machine = LanguageModel(model, SinkRing(3, 7, 4))
    got = ragged(machine, streams, machine.init_state(2), random.Random(2), most=6)
    for logits, tokens in zip(got, streams, strict=True):
        fresh = model.logits(model(torch.cat((tokens[:3], tokens[-7:]))[None]))[0]
        assert worst(logits[-1], fresh[-1]) <= 1e-10


def test_the_definition_holds_through_fork_rollback_reload_and_permutation(tmp_path: Path) -> None:
    model, rng, policy = decoder(), random.Random(3), SinkRing(2, 6, 4)
    machine, (a, b, junk, tail) = LanguageModel(model, policy), text(25, 4, 3, 12)
    state = machine.init_state(3)
    ragged(machine, [a, b, a[:0]], state, rng, most=5)
    state.copy_slots_(torch.tensor([2]), state, torch.tensor([0]))  # fork
    ragged(machine, [torch.cat((a, junk)), b, a], state, rng, most=3, start=[25, 4, 25])  # speculate
    state.cache.rollback(policy, torch.tensor([3, 0, 0]))
    state.save(tmp_path / "state")
    state = machine.init_state(3)
    state.load_file_(tmp_path / "state")
    state = state.take(torch.tensor([2, 0, 1]))
    whole = [torch.cat((a, tail.flip(0))), torch.cat((a, tail)), torch.cat((b, tail, tail))]
    got = ragged(machine, whole, state, rng, most=4, start=[25, 25, 4])
    for logits, tokens in zip(got, whole, strict=True):
        assert worst(logits, defined(model, tokens, 2, 6)[-len(logits) :]) <= 1e-10


POLICIES: list[CachePolicy] = [SinkRing(2, 6, 3), Window(window=6, slack=2), KeepAll(window=40),
                               EntropyRetained(2, 9, 3, 4, 3, 0.98)]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_any_chunking_in_any_company_equals_one_pass(policy: CachePolicy) -> None:
    machine, streams = LanguageModel(decoder(qk_norm=True), policy), text(33, 7, 40, 19)
    pushes = [[1], [3, 4], [11, 1, 1], [19]]
    got = streamed(machine, streams, pushes=pushes, lookaheads=[0] * 4, seed=4, move_at=5)
    for y, x in zip(got, streams, strict=True):
        assert worst(y, one_pass(machine, x)) <= 1e-10


def test_single_precision_streams_as_it_runs_offline() -> None:
    machine, streams = LanguageModel(decoder(dtype=torch.float32), SinkRing(2, 6, 3)), text(33, 7)
    got = streamed(machine, streams, pushes=[[1], [3, 4]], lookaheads=[0, 0], seed=4)
    for y, x in zip(got, streams, strict=True):
        assert worst(y, one_pass(machine, x)) <= 1e-5


def test_keeping_all_equals_no_cache_at_all() -> None:
    model, (tokens,) = decoder(), text(40)
    assert worst(one_pass(LanguageModel(model, KeepAll(window=40)), tokens), model(tokens[None])[0]) <= 1e-12


def test_entropy_takes_the_surprise_of_each_token_from_the_model() -> None:
    model, (tokens,) = decoder(), text(9)
    machine = LanguageModel(model, EntropyRetained(0, 9, 4, 4, 3))
    state = machine.init_state(1)
    for i in range(9):
        machine.step(tokens[None, i : i + 1], state, torch.tensor([1]), torch.tensor([False]))
    expected = -model.logits(model(tokens[None]))[0].log_softmax(-1)[torch.arange(8), tokens[1:]]
    born = state.cache.born[0]
    assert torch.allclose(state.cache.score[0][(born > 0)].double(), expected[born[born > 0] - 1], atol=1e-5)


def test_entropy_is_the_same_after_tokens_were_taken_back() -> None:
    policy = EntropyRetained(1, 8, 2, 3, 4, 0.9)
    machine, (tokens, junk) = LanguageModel(decoder(), policy), text(40, 4, seed=3)
    state, at = machine.init_state(1), 0
    out = []
    for n in (5, 6, 1, 9, 2, 8, 9):
        for x, keep in ((junk, False), (tokens[at : at + n], True)):
            y, _ = machine.step(x[None], state, torch.tensor([len(x)]), torch.tensor([False]))
            if keep:
                out.append(y[0])
            else:
                state.cache.rollback(policy, torch.tensor([4]))
        at += n
    assert worst(torch.cat(out), one_pass(machine, tokens)) <= 1e-10


def test_embeddings_of_tokens_give_what_the_tokens_give_and_frames_fit_among_them() -> None:
    model, (tokens,) = decoder(), text(20)
    machine, draw = LanguageModel(model, SinkRing(2, 6, 3)), torch.Generator().manual_seed(0)
    assert worst(one_pass(machine, model.embed(tokens).detach()), one_pass(machine, tokens)) <= 1e-12
    frames = Projector(5, 16).double()(torch.randn(11, 5, generator=draw, dtype=torch.float64)).detach()
    mixed = torch.cat((model.embed(tokens[:6]), frames, model.embed(tokens[6:]))).detach()
    state, out = machine.init_state(1), []
    for x in (tokens[:6], frames, tokens[6:]):
        out.append(machine.step(x[None], state, torch.tensor([len(x)]), torch.tensor([True]))[0][0])
    assert worst(torch.cat(out), one_pass(machine, mixed)) <= 1e-10
    assert worst(out[2], one_pass(machine, tokens)[6:]) > 1e-3


def test_more_than_a_cache_without_eviction_holds_is_refused_and_changes_nothing() -> None:
    machine, (tokens,) = LanguageModel(decoder(), KeepAll(window=8)), text(9)
    state = machine.init_state(1)
    with pytest.raises(CacheOverflow, match="do not fit a cache of 8"):
        machine.step(tokens[None], state, torch.tensor([9]), torch.tensor([False]))
    assert int(state.cache.length) == 0


@pytest.mark.parametrize(("kept", "limit"), [("int8", 0.03), ("fp8", 0.3)])
@pytest.mark.parametrize("policy", POLICIES[:1] + POLICIES[3:], ids=str)
def test_a_cache_in_eight_bits_is_small_and_near_and_streams_as_it_runs_offline(
    kept: Kept, limit: float, policy: CachePolicy
) -> None:
    model, streams = decoder(qk_norm=True), text(33, 7)
    machine, exact = LanguageModel(model, policy, kept=kept), LanguageModel(model, policy)
    got = streamed(machine, streams, pushes=[[1], [3, 4]], lookaheads=[0, 0], seed=4, move_at=5)
    for y, x in zip(got, streams, strict=True):
        assert worst(y, one_pass(machine, x)) <= 1e-10
    if not policy.scored:  # what is off by a little may be less surprising than another
        assert 1e-4 < worst(one_pass(machine, streams[0]), one_pass(exact, streams[0])) <= limit
    small, large = (m.init_state(1).cache for m in (machine, exact))
    assert small.kept.nbytes + small.scales.nbytes < large.kept[:, :, :2].nbytes / 3


@pytest.mark.skipif(not installed(), reason="PyTorch comes without triton on this platform")
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # of triton's interpreter
@pytest.mark.skipif(torch.cuda.is_available(), reason="runs kernels in the interpreter; on a GPU they run as they are")
@pytest.mark.parametrize("kept", [None, "int8"])
def test_the_kernels_of_a_gpu_step_as_plain_torch_does(kept: Kept | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill and single tokens, the cache not turned, past the window, by the kernels in triton's interpreter."""
    machine, (tokens, other) = (
        LanguageModel(decoder(1, dtype=torch.float32, qk_norm=True), POLICIES[0], kept=kept),
        text(9, 9),
    )
    machine.turned, machine.lean = False, None  # as on a GPU, where a kernel turns the keys

    def logits() -> Tensor:
        state, x = machine.init_state(3), torch.stack((tokens, other))
        parts = ((x[:, :5], [5, 3]), (x[:, 5:6], [1, 1]), (x[:, 6:7], [1, 0]), (x[:, 7:], [2, 1]))
        out = []
        for part, counts in parts:
            n = torch.tensor([0, *counts])
            padded = torch.cat((part[:1] * 0, part))
            y, _ = machine.step(padded, state, n, n < 0)
            out.append(machine.decoder.logits(y))
        return torch.cat(out, 1)

    expected = logits()
    monkeypatch.setattr(module, "cache_attention", registry.cache_attention.twin)
    for name in ("rms_norm", "rotary", "swiglu"):
        monkeypatch.setattr(layers, name, getattr(registry, name).twin)
    assert worst(logits(), expected) <= (1e-5 if kept is None else 1e-3)
