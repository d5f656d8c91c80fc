"""`vivavoce bench asr`: the streaming FastConformer encoder beside transformers' own, in one run on this machine.

Both get the same random weights and step over the same chunks in turn; that they give the same is checked before they
are timed. Where there is a GPU, an encoder of 0.6 B follows on it, our step replayed as a CUDA graph.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce.speech import hub
from vivavoce.speech.errors import MissingDependency, MissingDevice
from vivavoce.speech.foreign import rename
from vivavoce.speech.llm.graphs import captured
from vivavoce.speech.nn.encoder import Encoder, EncoderConfig
from vivavoce.speech.nn.packed import PRECISIONS, PackedLinear, Precision, prepare
from vivavoce.speech.nn.subsampling import SUBSAMPLING
from vivavoce.streaming.replay import AFTER

from .report import Different, Row, in_turn, run

FRAME_MS = 80
OFFLINE_LOOKAHEAD = 69
BOUND = 1e-4  # in fp32, ours and theirs may differ by rounding only
LARGE = EncoderConfig(mels=128, width=1024, layers=24, hidden=4096)  # 0.6 billion parameters
LARGE_CHUNK = 4  # encoder frames, 320 ms


@dataclass(frozen=True)
class Plan:
    """What to measure.

    chunks: in encoder frames; chunks_of_many: those of batches above 1; recording: its seconds, offline; recordings:
    how many in one batch; seconds: spent on one case, all contenders together, in `repeats` rounds or more; large:
    the encoder for a GPU; streams: its batches; most: streams beyond which it is not asked to keep up.
    """

    chunks: tuple[int, ...] = (1, 2, 7, 14)
    chunks_of_many: tuple[int, ...] = (1, 2, 7, 14)
    batches: tuple[int, ...] = (1, 8)
    seconds: float = 6.0
    repeats: int = 5
    recording: int = 30
    recordings: tuple[int, ...] = (1, 8)
    config: EncoderConfig = field(default_factory=EncoderConfig)
    large: EncoderConfig = LARGE
    streams: tuple[int, ...] = (1, 64, 512)
    most: int = 8192


QUICK = Plan(chunks_of_many=(7,), seconds=0.3, repeats=3, recording=6, recordings=(1,))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 for bad usage; raises VivaVoceError for what the user can put right."""
    return run("asr", __doc__.split("\n")[0], lambda quick: bench_asr(QUICK if quick else Plan()), argv)


class Theirs:
    """transformers' encoder over one batch of streams. Its first chunk is 7 mel frames shorter than the rest."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.caches = encoder, dict[str, Any]()

    def step(self, mel: Tensor, lookahead: int) -> Tensor:
        out = self.encoder(mel, use_cache=True, num_lookahead_tokens=lookahead, **self.caches)
        self.caches = {"past_key_values": out.past_key_values, "padding_cache": out.padding_cache}
        y: Tensor = out.last_hidden_state
        return y

    def offline(self, mel: Tensor) -> Tensor:
        y: Tensor = self.encoder(mel, num_lookahead_tokens=OFFLINE_LOOKAHEAD).last_hidden_state
        return y


class Ours:
    """Our encoder over one batch of streams, its first chunk begun by `spec.head` frames of zeros."""

    def __init__(self, encoder: Encoder, batch: int) -> None:
        self.encoder, self.state = encoder, encoder.init_state(batch)

    def step(self, mel: Tensor, lookahead: int) -> Tensor:
        missing = -mel.shape[1] % SUBSAMPLING  # only at the start
        if missing:
            mel = torch.cat((mel.new_zeros(len(mel), missing, mel.shape[2]), mel), dim=1)
        every = torch.full((len(mel),), mel.shape[1], device=mel.device)
        return self.encoder.step(mel, self.state, every, every < 0, lookahead)[0]

    def offline(self, mel: Tensor) -> Tensor:
        self.state = self.encoder.init_state(len(mel))
        return self.step(mel, OFFLINE_LOOKAHEAD)

    def linears_alone(self, mel: Tensor, lookahead: int) -> Callable[[], object]:
        """Something that runs, on the inputs of one step, the linears of that step and nothing else."""
        calls: list[tuple[nn.Module, Tensor]] = []
        linears = [m for m in self.encoder.modules() if isinstance(m, PackedLinear)]
        hooks = [m.register_forward_hook(lambda m, x, _: calls.append((m, x[0].clone()))) for m in linears]
        replays, self.encoder.replays = self.encoder.replays, None  # a replay calls no hooks
        try:
            self.step(mel, lookahead)
        finally:
            self.encoder.replays = replays
            for hook in hooks:
                hook.remove()
        return lambda: [linear(x) for linear, x in calls]


class Encoders(NamedTuple):
    """The same weights, theirs and, by precision, ours."""

    theirs: Any
    ours: Mapping[Precision, Encoder]


def bench_asr(plan: Plan) -> list[Row]:
    """Raises MissingDependency without transformers, and Different when the two encoders are not equal."""
    with torch.no_grad():
        encoders = build(plan.config)
        cases = [(b, c) for b in plan.batches for c in (plan.chunks if b == 1 else plan.chunks_of_many)]
        results = [streaming_case(encoders, plan, batch, chunk) for batch, chunk in cases]
        results += [offline_case(encoders, plan, batch) for batch in plan.recordings]
    best = min(encoders.ours, key=lambda p: statistics.geometric_mean(r.ours[p] / r.theirs for r in results))
    rows = [row for result in results for row in result.rows(best)]
    return rows + (large_rows(plan, "cuda") if torch.cuda.is_available() else [])


@torch.no_grad()
def large_rows(plan: Plan, device: str) -> list[Row]:
    """The large encoder on a GPU: equal in float32, timed in bfloat16; "cpu" runs the same there, without graphs."""
    theirs, ours = pair(plan.large)
    theirs.to(device)  # weights alone change their dtype, as when transformers loads a model in bfloat16
    ours.eval().to(device)
    name = f"0.6 B encoder, {device}, bfloat16"
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        check(f"{name}, before rounding", {"fp32": steady(theirs, ours, 1, plan.large.mels, device)[2]})
    for weight in (*theirs.parameters(), *ours.parameters()):
        weight.data = weight.data.bfloat16()
    ours.tabulate()
    rows = []
    for streams in plan.streams:
        their_step, our_step, differs = steady(theirs, ours, streams, plan.large.mels, device)
        t, o = in_turn([their_step, our_step], plan.seconds, plan.repeats)
        rows.append(Row(f"{name}, step of {FRAME_MS * LARGE_CHUNK} ms, batch {streams}", o, t, "ms", t / o, differs))
    a = in_real_time(plan, lambda n: steady(theirs, ours, n, plan.large.mels, device)[0])
    b = in_real_time(plan, lambda n: steady(theirs, ours, n, plan.large.mels, device)[1])
    case = f"{name}: streams whose steps of {FRAME_MS * LARGE_CHUNK} ms take no longer than that"
    return [*rows, Row(case, b, a, "streams", b / max(a, 1))]


def steady(
    theirs: Any, ours: Encoder, streams: int, mels: int, device: str
) -> tuple[Callable[[], object], Callable[[], object], float]:
    """One step of each in the middle of so many streams, and how far apart their outputs are."""
    n = SUBSAMPLING * LARGE_CHUNK
    dtype = next(ours.parameters()).dtype
    full = -(-ours.config.left_context // LARGE_CHUNK) * n
    mel = noise(streams, n - SUBSAMPLING + 1 + full + n, mels).to(device, dtype)
    a, b = Theirs(theirs), Ours(ours, streams)
    parts = mel.split((n - SUBSAMPLING + 1, full, n), dim=1)
    differs = max(difference(b.step(x, LARGE_CHUNK - 1).float(), a.step(x, LARGE_CHUNK - 1).float()) for x in parts)
    step = partial(b.step, parts[2], LARGE_CHUNK - 1)
    replay = captured(step) if device == "cuda" else step
    return finished(partial(a.step, parts[2], LARGE_CHUNK - 1), device), finished(replay, device), differs


def finished(call: Callable[[], object], device: str) -> Callable[[], object]:
    """The call and, on a GPU, its end."""

    def waiting() -> None:
        call()
        torch.cuda.synchronize()

    return waiting if device == "cuda" else call


def in_real_time(plan: Plan, step: Callable[[int], Callable[[], object]]) -> int:
    """The most streams, to an eighth, of which a step takes no longer than its audio."""

    def holds(n: int) -> bool:
        try:
            return in_turn([step(n)], plan.seconds / 10, plan.repeats)[0] <= FRAME_MS * LARGE_CHUNK
        except torch.cuda.OutOfMemoryError:
            return False

    if not holds(1):
        return 0
    n = 1
    while 2 * n <= plan.most and holds(2 * n):
        n *= 2
    return next((m for m in (n * eighths // 8 for eighths in range(15, 8, -1)) if m <= plan.most and holds(m)), n)


@dataclass(frozen=True)
class Result:
    """Of one case, milliseconds a call: theirs, ours by precision, our linears alone by precision (empty: not
    measured), and the difference in output by precision."""

    case: str
    theirs: float
    ours: dict[Precision, float]
    linears: dict[Precision, float]
    differences: dict[Precision, float]

    def rows(self, best: Precision) -> list[Row]:
        out = []
        for p, ms in self.ours.items():
            name = f"{self.case}, {p}{' (best)' if p == best else ''}"
            out.append(Row(name, ms, self.theirs, "ms", self.theirs / ms, self.differences[p]))
        for p, ms in self.linears.items():
            out.append(Row(f"{self.case}, {p}: step / its linears alone", self.ours[p], ms, "ms", ms / self.ours[p]))
        return out


def streaming_case(encoders: Encoders, plan: Plan, batch: int, chunk: int) -> Result:
    """A steady stream: caches full, one chunk a call."""
    lookahead, n = chunk - 1, SUBSAMPLING * chunk
    full = -(-plan.config.left_context // chunk) * n
    mel = noise(batch, n - SUBSAMPLING + 1 + full + n, plan.config.mels)
    first, filling, chunk_mel = mel.split((n - SUBSAMPLING + 1, full, n), dim=1)
    theirs, ours = Theirs(encoders.theirs), {p: Ours(e, batch) for p, e in encoders.ours.items()}
    differences = dict.fromkeys(ours, 0.0)
    for part in (first, filling, chunk_mel):
        expected = theirs.step(part, lookahead)
        for p in ours:
            differences[p] = max(differences[p], difference(ours[p].step(part, lookahead), expected))
    case = f"encoder step, {FRAME_MS * chunk} ms chunks, batch {batch}"
    check(case, differences)
    contenders: list[Theirs | Ours] = [theirs, *ours.values()]
    steps = [partial(encoder.step, chunk_mel, lookahead) for encoder in contenders]
    for step in steps[1:] * (AFTER + 2):  # a steady stream: what is frequent has been recorded
        step()
    linears = [o.linears_alone(chunk_mel, lookahead) for o in ours.values()]
    t, *ms = in_turn([*steps, *linears], plan.seconds, plan.repeats)
    alone = dict(zip(ours, ms[len(ours) :], strict=True))
    return Result(case, t, dict(zip(ours, ms, strict=False)), alone, differences)


def offline_case(encoders: Encoders, plan: Plan, batch: int) -> Result:
    """Whole recordings in one call."""
    mel = noise(batch, 100 * plan.recording + 1, plan.config.mels)
    theirs, ours = Theirs(encoders.theirs), {p: Ours(e, batch) for p, e in encoders.ours.items()}
    expected = theirs.offline(mel)
    differences = {p: difference(o.offline(mel), expected) for p, o in ours.items()}
    case = f"encoder offline, {plan.recording} s, batch {batch}"
    check(case, differences)
    contenders: list[Theirs | Ours] = [theirs, *ours.values()]
    t, *ms = in_turn([partial(encoder.offline, mel) for encoder in contenders], plan.seconds, plan.repeats)
    return Result(case, t, dict(zip(ours, ms, strict=True)), {}, differences)


def check(case: str, differences: Mapping[Precision, float]) -> None:
    if not differences["fp32"] <= BOUND:
        raise Different(
            f"{case}: in fp32 the outputs differ by {differences['fp32']:.1e} of the largest, more than "
            f"{BOUND}; this release of transformers computes something else: use the one of constraints.txt"
        )


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value of b."""
    return float((a - b).abs().max() / b.abs().max())


def noise(batch: int, frames: int, mels: int) -> Tensor:
    return torch.randn(batch, frames, mels, generator=torch.Generator().manual_seed(0))


def build(config: EncoderConfig) -> Encoders:
    """Random weights in theirs, and in ours by precision."""
    theirs, encoder = pair(config)
    ours: dict[Precision, Encoder] = {}
    for precision in PRECISIONS:
        try:
            ours[precision] = prepare(copy.deepcopy(encoder).eval(), precision)
        except MissingDevice as e:
            print(f"vivavoce: {precision} is left out: {e}", file=sys.stderr)
    return Encoders(theirs, ours)


def pair(config: EncoderConfig) -> tuple[Any, Encoder]:
    """Random weights in theirs, copied by the names that checkpoints of theirs are read with."""
    theirs = build_theirs(config)
    tensors = {f"encoder.{name}": value for name, value in theirs.state_dict().items()}
    with torch.device("meta"):
        encoder = Encoder(config)
    renamed = rename(tensors, hub.TABLE, hub.IGNORED, "transformers")
    encoder.load_state_dict({n.removeprefix("encoder."): v for n, v in renamed.items()}, assign=True)
    return theirs, encoder


def build_theirs(config: EncoderConfig) -> Any:
    try:
        from transformers import NemotronAsrStreamingEncoder, NemotronAsrStreamingEncoderConfig
    except ImportError as e:
        raise MissingDependency(
            "this benchmark compares with transformers' encoder, which is not installed (5.17 or "
            "newer is needed); pip install 'transformers>=5.17'"
        ) from e
    torch.manual_seed(0)
    values = NemotronAsrStreamingEncoderConfig(
        hidden_size=config.width, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        num_key_value_heads=config.heads, intermediate_size=config.hidden, num_mel_bins=config.mels,
        subsampling_conv_channels=config.channels, conv_kernel_size=config.conv_kernel,
        sliding_window=config.left_context + 1, attention_bias=config.bias, convolution_bias=config.bias,
        scale_input=config.scale_input)  # fmt: skip
    return NemotronAsrStreamingEncoder(values).eval()
