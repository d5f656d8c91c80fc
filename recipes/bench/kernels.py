"""`vivavoce bench kernels`: each Triton twin beside plain torch on a GPU, and decode attention beside torch's own.

Needs an NVIDIA GPU and triton. Launches are timed as CUDA graphs, so that what counts is the GPU's time; that both give
the same comes first. Decode attention also says how much of the card's copying speed it reaches. A plan for "cpu"
rehearses all of it in triton's interpreter, whose times say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from vivavoce.kernels.lazy import installed
from vivavoce.kernels.registry import cache_attention, conv_step, relative_attention, rms_norm, rotary, swiglu
from vivavoce.kernels.rotary import rotary_table
from vivavoce.speech.errors import MissingDevice

from .report import Different, Row, in_turn, run

HEADS, KV_HEADS, D, WIDTH, HIDDEN, SINKS = 32, 8, 128, 4096, 11008, 4
LIMIT = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 8e-2}  # twin and reference, of the largest value


@dataclass(frozen=True)
class Plan:
    """decode: (batch, entries) of decode attention; rows: of the operations on single tokens; streams: in a
    step of the encoder, 4 frames each; replays: of a graph, timed together, after `warm` more; copied: numbers whose
    copying is timed."""

    decode: tuple[tuple[int, int], ...] = ((1, 1024), (1, 4096), (16, 4096), (64, 4096))
    rows: tuple[int, ...] = (1, 64, 1024)
    streams: tuple[int, ...] = (1, 64, 512)
    dtype: torch.dtype = torch.bfloat16
    replays: int = 200
    warm: int = 20
    copied: int = 2**28
    device: str = "cuda"


QUICK = Plan(decode=((1, 1024), (64, 4096)), rows=(64,), streams=(64,), replays=50, warm=5)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 for bad usage. Raises MissingDevice without a GPU or triton, Different for a wrong twin."""
    return run("kernels", __doc__.split("\n")[0], lambda quick: bench_kernels(QUICK if quick else Plan()), argv)


@torch.no_grad()
def bench_kernels(plan: Plan) -> list[Row]:
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise MissingDevice("bench kernels: PyTorch finds no usable GPU here; run it on a machine with an NVIDIA GPU")
    if not installed():
        raise MissingDevice("bench kernels: the GPU cannot be used without triton; pip install triton")
    copy = copying(plan)
    rows = [row for batch, entries in plan.decode for row in decode_rows(plan, batch, entries, copy)]
    rows += [row for n in plan.rows for row in token_rows(plan, n)]
    return rows + [row for n in plan.streams for row in encoder_rows(plan, n)]


def decode_rows(plan: Plan, batch: int, entries: int, copy: float) -> list[Row]:
    """Decode attention beside plain torch, SDPA and FlexAttention, and its share of `copy` bytes a second."""
    inputs = decode_inputs(batch, entries, plan.dtype, plan.device)
    name = f"decode attention, batch {batch}, {entries} entries"
    difference = compare(name, cache_attention.twin(**inputs), cache_attention.reference(**inputs))
    flex = torch.compile(flex_attention) if plan.device == "cuda" else flex_attention
    ours, plain, sdpa, flexible = (
        timed(call, plan)
        for call in (
            lambda: cache_attention.twin(**inputs),
            lambda: cache_attention.reference(**inputs),
            lambda: attention_without_rotary(inputs),
            lambda: flexible_without_rotary(inputs, flex),
        )
    )
    reach = 100 * 2 * inputs["k"].nbytes / (ours * 1e-6) / copy
    return [
        Row(f"{name}, against plain torch", ours, plain, "µs", plain / ours, difference),
        Row(f"{name}, against SDPA, which turns no keys", ours, sdpa, "µs", sdpa / ours),
        Row(f"{name}, against FlexAttention, which turns no keys", ours, flexible, "µs", flexible / ours),
        Row(f"{name}, bytes read, of copying speed", reach, 100.0, "%", reach / 100),
    ]


def decode_inputs(batch: int, entries: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """One query a slot over a full cache."""
    g = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype, device=device)

    table = rotary_table(1e4 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D), entries + 1).float().to(device)
    last = torch.full((batch, 1), entries, device=device)
    return {
        "q": normal(batch, 1, HEADS, D),
        "k": normal(batch, entries, KV_HEADS, D),
        "v": normal(batch, entries, KV_HEADS, D),
        "table": table,
        "key_positions": torch.arange(entries, device=device).repeat(batch, 1),
        "query_positions": last,
        "sink_positions": last,
        "visible": torch.ones(batch, 1, entries, dtype=torch.bool, device=device),
        "sinks": SINKS,
    }


def attention_without_rotary(inputs: dict[str, Any]) -> Tensor:
    q, k, v = (inputs[name].transpose(1, 2) for name in "qkv")
    return F.scaled_dot_product_attention(q, k, v, attn_mask=inputs["visible"][:, None], enable_gqa=True)


def flexible_without_rotary(inputs: dict[str, Any], attend: Callable[..., Any]) -> Tensor:
    """attend: torch's flex_attention, compiled; every entry is seen, so that it needs no mask."""
    q, k, v = (inputs[name].transpose(1, 2) for name in "qkv")
    y: Tensor = attend(q, k, v, enable_gqa=True)
    return y


def token_rows(plan: Plan, n: int) -> list[Row]:
    x = torch.randn(n, WIDTH, dtype=plan.dtype, device=plan.device)
    heads, wide = x.view(n, HEADS, D), torch.randn(n, 2 * HIDDEN, dtype=plan.dtype, device=plan.device)
    weight = torch.rand(WIDTH, dtype=plan.dtype, device=plan.device)
    table = decode_inputs(1, max(n, 2), plan.dtype, plan.device)["table"]
    places = torch.arange(n, device=plan.device)
    return [
        token_row(plan, f"RMSNorm, {n} rows", lambda f: f(x, weight, 1e-6), rms_norm.twin, rms_norm.reference),
        token_row(plan, f"rotary, {n} rows", lambda f: f(heads, table, places), rotary.twin, rotary.reference),
        token_row(plan, f"SwiGLU, {n} rows", lambda f: f(wide), swiglu.twin, swiglu.reference),
    ]


def encoder_rows(plan: Plan, streams: int) -> list[Row]:
    attention, (x, memory, *rest) = encoder_inputs(streams, plan.dtype, plan.device)

    def convolve(f: Callable[..., Tensor]) -> Tensor:
        return f(x, memory.clone(), *rest)  # it writes there; both pay for the copy

    def attend(f: Callable[..., Tensor]) -> Tensor:
        return f(*attention)

    attention_name, conv_name = f"relative attention, {streams} streams", f"convolution step, {streams} streams"
    return [
        token_row(plan, attention_name, attend, relative_attention.twin, relative_attention.reference),
        token_row(plan, conv_name, convolve, conv_step.twin, conv_step.reference),
    ]


def encoder_inputs(streams: int, dtype: torch.dtype, device: str) -> tuple[list[Any], list[Any]]:
    """Arguments of relative attention and of the convolution step in a layer of a 0.6 B encoder: 4 new frames, 70 from
    before."""
    g, heads, d, width, new, keys = torch.Generator(device).manual_seed(0), 8, 128, 1024, 4, 74

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype, device=device)

    q, k, v = (normal(streams, heads, n, d) for n in (new, keys, keys))
    mask = torch.zeros(streams, 1, new, keys, dtype=dtype, device=device)
    attention = [q, k, v, normal(heads, keys + new - 1, d), normal(heads, d), normal(heads, d), mask]
    valid = torch.full((streams,), new, device=device)
    affine = (normal(width), normal(width), normal(width))
    x, memory = normal(streams, new, 2 * width), normal(streams, 8, width)
    return attention, [x, memory, normal(width, 9), *affine, 1e-5, valid]


def token_row(
    plan: Plan, name: str, call: Callable[[Any], Tensor], twin: Callable[..., Tensor], reference: Callable[..., Tensor]
) -> Row:
    difference = compare(name, call(twin), call(reference))
    ours, plain = timed(lambda: call(twin), plan), timed(lambda: call(reference), plan)
    return Row(f"{name}, against plain torch", ours, plain, "µs", plain / ours, difference)


def compare(name: str, ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value. Raises Different past what the dtype allows."""
    difference = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    if not difference <= LIMIT[theirs.dtype] or math.isnan(difference):
        raise Different(f"{name}: the twin and plain torch differ by {difference:.1e}; their times say nothing")
    return difference


def timed(call: Callable[[], object], plan: Plan) -> float:
    """Microseconds of a replay of its CUDA graph."""
    if plan.device == "cpu":
        return 1e3 * in_turn([call], 0, plan.replays)[0]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # what compiles or chooses does so before the capture
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for _ in range(plan.warm):
        graph.replay()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(plan.replays):
        graph.replay()
    end.record()
    end.synchronize()
    return float(1e3 * start.elapsed_time(end) / plan.replays)


def copying(plan: Plan) -> float:
    """Bytes a second that a plain copy reads and writes: what the card's memory gives."""
    source = torch.empty(plan.copied, dtype=torch.float32, device=plan.device)
    target = torch.empty_like(source)
    micros = timed(lambda: target.copy_(source), replace(plan, replays=20, warm=5))
    return 2 * source.nbytes / (micros * 1e-6)


if __name__ == "__main__":
    raise SystemExit(main())
