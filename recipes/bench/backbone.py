"""`vivavoce bench backbone`: a token of the language model on its sink cache, beside recomputing and transformers.

The same random weights run in all of them, in turn; they are float16's, as those of models that ship, so that `best`,
which keeps them packed so, computes the same function. Recomputing is the definition of a sliding window: the whole
window anew for each token. transformers' `generate` has its own cache; that greedy tokens are equal is checked first.
Where there is a GPU, a model of 0.5 B follows on it, its tokens replayed as CUDA graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.engine import LlmEngine, Token
from vivavoce.speech.llm.graphs import DecodeGraphs
from vivavoce.speech.llm.hub import rename
from vivavoce.speech.llm.layout import prepare
from vivavoce.speech.llm.model import DecoderState, LanguageModel
from vivavoce.speech.llm.turns import turn
from vivavoce.speech.nn.packed import Precision, supported
from vivavoce.speech.weights import fit
from vivavoce.streaming.cache_policy import SinkRing
from vivavoce.streaming.eight_bits import Kept
from vivavoce.streaming.engine import Slot

from .report import Different, Row, in_turn, run

SINKS = 4
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # scores nearer than this may change places by rounding
LIMIT = {torch.float32: 1e-4, torch.bfloat16: 8e-2}  # how far scores may be off, of the largest
WAYS: dict[str, Precision] = {"": "fp32", ", best: packed float16 weights": "fp16"}


def shape(width: int, layers: int, heads: int, kv_heads: int, hidden: int, vocabulary: int) -> LlmConfig:
    return LlmConfig(vocabulary, width, layers, heads, kv_heads, 48, hidden, qk_norm=True, tied=True)


SHIPPED = shape(192, 4, 4, 2, 512, 4096)
FULL = shape(384, 6, 8, 2, 1024, 8192)  # 12.5 million parameters
WIDER = shape(384, 8, 8, 2, 1024, 8192)  # 15.5 million
LARGE = LlmConfig(151_936, 896, 24, 14, 2, 64, 4864, qk_norm=True, tied=True)  # 0.5 billion, the shape of Qwen2's
EARLY, AGES = 1_000, (64_000, 1_000_000, 4_000_000)  # tokens of a session that is compared with itself, later


@dataclass(frozen=True)
class Plan:
    """windows: of the cache against recomputing, by the models of `recomputed`; ages: tokens after which a session is
    compared with itself after EARLY; kept: caches in 8 bits, for their size and error; batches: against transformers,
    by the models of `generating`, each with a prompt of `prompt` tokens and `tokens` more; seconds: spent on one case,
    all contenders together, in `repeats` rounds or more; large: models for a GPU, in each of `dtypes`."""

    windows: tuple[int, ...] = (256, 1024, 4096)
    ages: tuple[int, ...] = AGES
    batches: tuple[int, ...] = (1, 16)
    prompt: int = 64
    tokens: int = 64
    kept: tuple[Kept, ...] = ("int8", "fp8")
    seconds: float = 10.0
    repeats: int = 3
    recomputed: dict[str, LlmConfig] = field(default_factory=lambda: {"2.4 M": SHIPPED, "15.5 M": WIDER})
    generating: dict[str, LlmConfig] = field(default_factory=lambda: {"2.4 M": SHIPPED, "12.5 M": FULL})
    large: dict[str, LlmConfig] = field(default_factory=lambda: {"0.5 B": LARGE})
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


QUICK = Plan(windows=(256, 1024), ages=AGES[-1:], tokens=24, seconds=1.0, repeats=3, generating={"2.4 M": SHIPPED})


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 for bad usage; raises VivaVoceError for what the user can put right."""
    return run("backbone", __doc__.split("\n")[0], lambda quick: bench_backbone(QUICK if quick else Plan()), argv)


def bench_backbone(plan: Plan) -> list[Row]:
    """Raises MissingDependency without transformers, and Different when tokens or scores are not equal."""
    rows = []
    with torch.no_grad():
        for name, config in plan.recomputed.items():
            ours = build(config)[1]
            rows += [recompute_case(name, ours, plan, window) for window in plan.windows]
            rows += age_cases(name, ours, plan)
        for name, config in plan.generating.items():
            theirs, ours = build(config)
            rows += [kept_case(name, ours, plan, kept) for kept in plan.kept]
            ways = ways_of(ours)
            rows += [row for batch in plan.batches for row in generate_cases(name, theirs, ours, ways, plan, batch)]
    return rows + (large_rows(plan, "cuda") if torch.cuda.is_available() else [])


def ways_of(decoder: Decoder) -> dict[str, Decoder]:
    """The decoder as a CPU runs it; on a GPU, or of other weights than float32, just itself."""
    weight = decoder.embed.weight
    if weight.is_cuda or weight.dtype != torch.float32:
        return {"": decoder}
    able = {way: precision for way, precision in WAYS.items() if precision in supported()}
    return {way: prepare(copy.deepcopy(decoder), precision) for way, precision in able.items()}


@torch.no_grad()
def large_rows(plan: Plan, device: str) -> list[Row]:
    """The large models on a GPU; "cpu" runs the same there, without graphs."""
    rows = []
    for name, config in plan.large.items():
        theirs, ours = build(config)
        theirs.to(device)  # weights alone change their dtype: transformers keeps rotary frequencies in float32
        for dtype in plan.dtypes:
            for weight in (*theirs.parameters(), *ours.parameters()):
                weight.data = weight.data.to(device, dtype)
            case = f"{name}, {device}, {str(dtype).removeprefix('torch.')}"
            for window in plan.windows:
                rows += [recompute_case(case, ours, plan, window), floor_case(case, ours, plan, window)]
            ways = ways_of(ours)
            rows += [row for batch in plan.batches for row in generate_cases(case, theirs, ours, ways, plan, batch)]
    return rows


def floor_case(name: str, decoder: Decoder, plan: Plan, window: int) -> Row:
    """A token when the window is full, beside what it cannot go below: reading every weight once."""
    model = LanguageModel(decoder, SinkRing(SINKS, window - SINKS, 64))
    state, tokens = model.init_state(1), draw(decoder, 1, window)
    step(model, state, tokens)
    weights = torch.cat([weight.flatten() for weight in decoder.parameters()])
    calls = [finished(call, tokens) for call in (weights.sum, one_more(model, state, tokens[:, :1]))]
    floor, ours = in_turn(calls, plan.seconds, plan.repeats)
    return Row(f"{name}: a token at window {window}, against reading all weights", ours, floor, "ms", floor / ours)


def recompute_case(name: str, decoder: Decoder, plan: Plan, window: int) -> Row:
    """A token when sinks and window are full."""
    model = LanguageModel(prepare(copy.deepcopy(decoder), "fp32"), SinkRing(SINKS, window - SINKS, 64))
    state, tokens = model.init_state(1), draw(decoder, 1, window)
    step(model, state, tokens)
    limit = LIMIT[decoder.embed.weight.dtype]
    expected = decoder.logits(decoder(tokens)[:, -1])
    case = f"{name}: a token at window {window}, against recompute"
    found = decoder.logits(last_again(model, state, tokens))
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference < limit:
        raise Different(f"{case}: scores differ by {difference:.1e} of the largest")
    calls = [finished(call, tokens) for call in (partial(decoder, tokens), one_more(model, state, tokens[:, :1]))]
    again, ours = in_turn(calls, plan.seconds, plan.repeats)
    return Row(case, ours, again, "ms", again / ours, difference)


def age_cases(name: str, decoder: Decoder, plan: Plan) -> list[Row]:
    """A session of EARLY tokens beside the same as it would be after many more: time a token, memory, scores."""
    model = LanguageModel(prepare(copy.deepcopy(decoder), "fp32"), SinkRing(SINKS, plan.windows[0] - SINKS, 64))
    early = model.init_state(1)
    step(model, early, draw(decoder, 1, EARLY))
    later = [aged(model, early, age) for age in plan.ages]
    one = draw(decoder, 1, 1)
    found = [decoder.logits(step(model, state, one)) for state in (early, *later)]
    calls = [partial(step, model, state, one) for state in (early, *later)]
    first, *times = in_turn(calls, plan.seconds, plan.repeats)
    rows = []
    for age, state, ms, scores in zip(plan.ages, later, times, found[1:], strict=True):
        case, size = f"{name}: after {age:,} tokens, against {EARLY:,}", (state.nbytes / 1e6, early.nbytes / 1e6)
        difference = float((scores - found[0]).abs().max() / found[0].abs().max())
        rows += [Row(f"{case}: a token", ms, first, "ms", first / ms, difference),
                 Row(f"{case}: state", *size, "MB", size[1] / size[0])]  # fmt: skip
    return rows


def aged(model: LanguageModel, state: DecoderState, tokens: int) -> DecoderState:
    """The session as if the tokens that it still sees had come so late, by whole rounds of the ring."""
    policy, old = model.policy, state.take(torch.tensor([0]))
    ring = policy.entries - policy.sinks
    old.cache.counts.add_(rounds := (tokens - int(old.cache.length)) // ring * ring)
    old.cache.life[:, policy.sinks :].add_(rounds)
    for turned, keys in zip(old.cache.turned, old.cache.keys, strict=True):
        turned.copy_(turn(keys.transpose(1, 2), model.turns(old.cache.born)).transpose(1, 2))
    return old


def last_again(model: LanguageModel, state: DecoderState, tokens: Tensor) -> Tensor:
    """The hidden state of the last token, (1, width), by the way a single token takes."""
    state.cache.rollback(model.policy, torch.ones_like(state.cache.length))
    return one_more(model, state, tokens[:, -1:])().reshape(1, -1)


def one_more(model: LanguageModel, state: DecoderState, token: Tensor) -> Callable[[], Tensor]:
    """What takes one more token (1, 1): on a GPU a graph."""
    if not token.is_cuda:
        return partial(step, model, state, token)
    return partial(DecodeGraphs(model, state), token[0], [1])


def finished(call: Callable[[], object], like: Tensor) -> Callable[[], object]:
    """The call and, on a GPU, its end."""

    def waiting() -> None:
        call()
        torch.cuda.synchronize()

    return waiting if like.is_cuda else call


def step(model: LanguageModel, state: DecoderState, tokens: Tensor) -> Tensor:
    every = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
    return model.step(tokens, state, every, every < 0)[0]


def kept_case(name: str, decoder: Decoder, plan: Plan, kept: Kept) -> Row:
    """How small a session is with keys and values in 8 bits, and how far off its scores then are, past the window."""
    policy, tokens = SinkRing(SINKS, plan.windows[0] - SINKS, 64), draw(decoder, 1, 2 * plan.windows[0])
    scores, sizes = [], []
    for model in (LanguageModel(decoder, policy, kept=kept), LanguageModel(decoder, policy)):
        state = model.init_state(1)
        scores.append(decoder.logits(step(model, state, tokens)[:, -plan.windows[0] :]))
        cache = state.cache
        sizes.append((cache.kept[:, :, :2].nbytes + cache.scales.nbytes) / 1e6)
    difference = float((scores[0] - scores[1]).abs().max() / scores[1].abs().max())
    case = f"{name}: keys and values of a session of {plan.windows[0]} tokens in {kept}, against float32"
    return Row(case, sizes[0], sizes[1], "MB", sizes[1] / sizes[0], difference)


def generate_cases(
    name: str, theirs: Any, decoder: Decoder, ways: Mapping[str, Decoder], plan: Plan, batch: int
) -> list[Row]:
    """The engine, sessions and all, against `generate`, each way in turn; tokens a second of all rows together."""
    prompt = draw(decoder, batch, plan.prompt)
    case = f"{name}: tokens a second, batch {batch}, against transformers generate"
    other = partial(theirs.generate, prompt, max_new_tokens=plan.tokens, do_sample=False)
    policy = SinkRing(SINKS, 1020, 64)
    engines = {way: LlmEngine(LanguageModel(d, policy), batch, budget=4096) for way, d in ways.items()}
    calls = {way: partial(replies, engine, prompt.tolist(), plan.tokens) for way, engine in engines.items()}
    expected = other()[:, plan.prompt :].tolist()
    for way, call in calls.items():
        if not all(map(partial(same, decoder), prompt.tolist(), call(), expected)):
            raise Different(f"{case}{way}: greedy tokens differ; use the release of transformers of constraints.txt")
    times = in_turn([other, *calls.values()], plan.seconds, plan.repeats)
    a, *ours = (1e3 * batch * plan.tokens / ms for ms in times)
    return [Row(case + way, b, a, "tokens/s", b / a, 0.0) for way, b in zip(calls, ours, strict=True)]


def same(decoder: Decoder, prompt: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Whether greedy tokens are equal up to where, in float64, the two lie within CLOSE: rounding may decide that
    either way, and what follows is then another text."""
    unequal = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if not unequal:
        return True
    i, exact = unequal[0], copy.deepcopy(decoder).double()
    weight = decoder.embed.weight
    scores = exact.logits(exact(torch.tensor([prompt + ours[:i]], device=weight.device))[0, -1])
    return bool((scores.max() - scores[[ours[i], theirs[i]]]).max() < CLOSE[weight.dtype])


def replies(engine: LlmEngine, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """What sessions opened for these prompts say, closed again afterwards."""
    out: dict[Slot, list[int]] = {}
    for i, prompt in enumerate(prompts):
        slot = engine.open(str(i))
        engine.extend(slot, prompt)
        engine.reply(slot, max_tokens=tokens, ends=())
        out[slot] = []
    while not engine.idle:
        for event in engine.tick():
            if isinstance(event, Token):
                out[event.slot].append(event.token)
    for slot in out:
        engine.close(slot)
    return list(out.values())


def draw(decoder: Decoder, batch: int, n: int) -> Tensor:
    tokens = torch.randint(0, decoder.config.vocabulary, (batch, n), generator=torch.Generator().manual_seed(0))
    return tokens.to(decoder.embed.weight.device)


def build(config: LlmConfig) -> tuple[Any, Decoder]:
    """Random weights in theirs, copied by the names that checkpoints of theirs are read with."""
    try:
        from transformers import Qwen3Config, Qwen3ForCausalLM
    except ImportError as e:
        raise MissingDependency(
            "this benchmark compares with transformers' generate, which is not installed; "
            "pip install 'transformers>=5.17'"
        ) from e
    torch.manual_seed(0)
    values = Qwen3Config(
        vocab_size=config.vocabulary, hidden_size=config.width, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.kv_heads, head_dim=config.head_dim,
        intermediate_size=config.hidden, tie_word_embeddings=True, max_position_embeddings=8192,
        rope_theta=config.theta, rms_norm_eps=config.eps, eos_token_id=None, pad_token_id=0)  # fmt: skip
    theirs = Qwen3ForCausalLM(values).eval()
    for weight in theirs.parameters():
        weight.data = weight.data.half().float()
    tensors = {n: t.clone() for n, t in rename(theirs.state_dict(), "transformers").items() if n != "head.weight"}
    ours = Decoder.empty(config)
    fit(ours, tensors, "transformers")
    return theirs, ours.eval().requires_grad_(False)
