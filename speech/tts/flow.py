"""The flow: mean frames and conditions in, the frames of one way to say it out; it hears nothing but what it made.

Conditional flow matching on the straight path from noise to speech (arXiv 2210.02747), by a transformer whose attention
sees its own chunk and a bounded number of frames before (arXiv 2412.10117). It predicts where the path ends, as a
difference from the mean. Solver steps lie close together at the start; each keeps keys, values and convolution inputs
of its own, so that a stream equals one pass under the same mask. Plans come from the acoustic model; frames go to the
vocoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.speech.llm.sampling import uniform
from vivavoce.streaming.buffers import count_mask, shift_in_, take_items
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from . import mel
from .attention import Attention
from .config import FlowConfig

MOST_STEPS = 10
_STEPS_A_UNIT = 1000.0  # of the sinusoids that tell the network where on the path it is
RATE = Fraction(mel.RATE, mel.HOP)


@dataclass(frozen=True, eq=False)
class AheadState(State):
    """waiting: (slots, lookahead, width) the last inputs; held: (slots,) int64 how many of them have not come out."""

    waiting: Tensor
    held: Tensor


class Ahead(nn.Module):
    """(slots, n, width in) -> (slots, m, 82 + width): the mean frame, and the conditions of `lookahead` frames more in
    a convolution. A `Stage` that holds back so many frames."""

    def __init__(self, config: FlowConfig, width: int) -> None:
        super().__init__()
        self.ahead, self.width = config.lookahead, width
        self.conv = nn.Conv1d(width, config.width, config.lookahead + 1)

    @property
    def spec(self) -> StageSpec:
        return StageSpec(RATE, RATE)

    def init_state(self, slots: int) -> AheadState:
        like = self.conv.weight.detach()
        return AheadState(like.new_zeros(slots, self.ahead, self.width),
                          torch.zeros(slots, dtype=torch.int64, device=like.device))

    @torch.no_grad()
    def step(self, x: Tensor, state: AheadState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        n = x.shape[1]
        x = x * count_mask(valid, n)[..., None]
        joined = F.pad(shift_in_(state.waiting, x, valid), (0, 0, 0, self.ahead))
        total = state.held + valid
        held = torch.where(final, 0, total.clamp(max=self.ahead))
        index = (self.ahead - state.held)[:, None] + torch.arange(n + 2 * self.ahead, device=x.device)
        state.held.copy_(held)
        y = self._look(take_items(joined, index.clamp(max=joined.shape[1] - 1)))
        return y, total - held

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Whole phrases: (B, T, width in), (B,) -> (B, T, 82 + width)."""
        return self._look(F.pad(x * count_mask(counts, x.shape[1])[..., None], (0, 0, 0, self.ahead)))

    def _look(self, x: Tensor) -> Tensor:
        """(B, T + lookahead, width in) -> (B, T, 82 + width)."""
        seen = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return torch.cat((x[:, : seen.shape[1], : mel.WIDTH], seen), dim=-1)


@dataclass(frozen=True, eq=False)
class LayerState(State):
    """attention: (slots, left, 2, heads, width / heads) keys and values; conv: (slots, kernel - 1, width)."""

    attention: Tensor
    conv: Tensor


@dataclass(frozen=True, eq=False)
class FlowState(State):
    """frames: (slots,) int64 made so far; seed: (slots,) int64 of the noise; steps: (slots,) int64 solver steps, which
    the owner of a slot sets; banks: for each solver step (with guidance, twice) the layers' memories."""

    frames: Tensor
    seed: Tensor
    steps: Tensor
    banks: tuple[tuple[LayerState, ...], ...]


class FlowLayer(nn.Module):
    """Attention, then a causal convolution and a feed-forward, each scaled and shifted by where on the path we are."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        w, self.kernel = config.width, config.kernel
        self.attention = Attention(w, config.heads)
        self.depthwise = nn.Conv1d(w, w, config.kernel, groups=w)
        self.up, self.down = nn.Linear(w, config.hidden), nn.Linear(config.hidden, w)
        self.offsets = nn.Parameter(torch.randn(6, w) * 0.02)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, moment: Tensor, mask: Tensor, state: LayerState | None, valid: Tensor | None,
                inside: Tensor) -> Tensor:
        """moment: (B, 6, width); inside: (B, T, 1) which frames count."""
        a, b, c, d, e, f = (moment + self.offsets)[:, :, None].unbind(1)
        y = F.layer_norm(x, x.shape[-1:]) * (1 + a) + b
        memory = None if state is None else state.attention
        x = x + (0.5 + c) * self.dropout(self.attention(y, mask, memory, valid))
        y = x * inside
        y = F.pad(y, (0, 0, self.kernel - 1, 0)) if state is None else shift_in_(state.conv, y, valid)
        y = self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        y = F.layer_norm(y, y.shape[-1:]) * (1 + d) + e
        return x + (0.5 + f) * self.dropout(self.down(F.gelu(self.up(y))))  # type: ignore[no-any-return]


class Flow(nn.Module):
    """The network that says where the path from a noisy frame ends."""

    def __init__(self, config: FlowConfig, width: int) -> None:
        """width: of the frames that the acoustic model (or another planner) draws."""
        super().__init__()
        w, self.config = config.width, config
        self.ahead = Ahead(config, width)
        self.enter = nn.Linear(2 * mel.WIDTH, w)
        self.moment = nn.Sequential(nn.Linear(w, w), nn.SiLU(), nn.Linear(w, 6 * w))
        self.nothing = nn.Parameter(torch.zeros(w))  # the condition of unguided frames
        self.layers = nn.ModuleList(FlowLayer(config) for _ in range(config.layers))
        self.out = nn.Linear(w, mel.WIDTH)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, t: Tensor, told: Tensor, mask: Tensor, inside: Tensor,
                bank: tuple[LayerState, ...] | None = None, valid: Tensor | None = None) -> Tensor:
        """x: (B, T, 82) noisy frames at t: (B,) in [0, 1]; told: (B, T, 82 + width) from `ahead`; inside: (B, T, 1).
        Returns (B, T, 82)."""
        mean, condition = told[..., : mel.WIDTH], told[..., mel.WIDTH :]
        h = self.enter(torch.cat((x, mean), dim=-1)) + condition
        moment = self.moment(sinusoid(t, self.config.width).to(h.dtype)).unflatten(-1, (6, -1))
        for i, layer in enumerate(self.layers):
            h = layer(h, moment, mask, None if bank is None else bank[i], valid, inside)
        return mean + self.out(F.layer_norm(h, h.shape[-1:]))  # type: ignore[no-any-return]

    def unguided(self, told: Tensor) -> Tensor:
        """The same with nothing told."""
        nothing = self.nothing.expand(*told.shape[:2], -1)
        return torch.cat((torch.zeros_like(told[..., : mel.WIDTH]), nothing), dim=-1)


class FlowStage:
    """Told frames (slots, n, 82 + width) -> frames as in mel.py (slots, n, 82). A `Stage`.

    A step takes whole chunks of `config.chunk` (lookahead + 1) frames. mean, deviation: undo the normalisation, (82,);
    steps: the most that a slot may take; guidance: how far beyond the unguided result to go, 0 not at all;
    temperature: the deviation of the noise a path starts from.
    """

    def __init__(self, flow: Flow, mean: Tensor, deviation: Tensor, *, steps: int = MOST_STEPS, guidance: float = 0.0,
                 temperature: float = 1.0) -> None:
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"{steps} solver steps; 1 to {MOST_STEPS} can be taken")
        self.flow, self.mean, self.deviation = flow, mean, deviation
        self.steps, self.guidance, self.temperature = steps, guidance, temperature

    @property
    def spec(self) -> StageSpec:
        return StageSpec(RATE, RATE, chunk=self.flow.config.chunk)

    def init_state(self, slots: int) -> FlowState:
        c, like = self.flow.config, self.flow.out.weight.detach()

        def whole(value: int) -> Tensor:
            return torch.full((slots,), value, dtype=torch.int64, device=like.device)

        keys = (slots, c.left, 2, c.heads, c.width // c.heads)
        conv = (slots, c.kernel - 1, c.width)
        banks = tuple(
            tuple(LayerState(like.new_zeros(keys), like.new_zeros(conv)) for _ in self.flow.layers)
            for _ in range(self.steps * (2 if self.guidance else 1))
        )
        return FlowState(whole(0), whole(0), whole(self.steps), banks)

    @torch.no_grad()
    def step(self, x: Tensor, state: FlowState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        n = x.shape[1]
        if n == 0:
            return x[..., : mel.WIDTH], valid
        mask = sees(n, self.flow.config, lookahead, state.frames, valid, self.flow.config.left)
        inside = count_mask(valid, n)[..., None]
        at = state.frames[:, None] + torch.arange(n, device=x.device)
        y = self.temperature * gaussian(state.seed, at, mel.WIDTH).to(x.dtype)
        for i in range(int(state.steps.max())):
            t, following = moments(i, state.steps), moments(i + 1, state.steps)
            end = self._end(i, y, t.to(x.dtype), x, mask, inside, state.banks, valid)
            share = ((following - t) / (1 - t).clamp(min=1e-9)).to(x.dtype)[:, None, None]
            y = torch.where((i < state.steps)[:, None, None], y + share * (end - y), y)
        state.frames.add_(valid)
        y = y * self.deviation + self.mean
        return y, valid

    def _end(self, i: int, y: Tensor, t: Tensor, told: Tensor, mask: Tensor, inside: Tensor,
             banks: Sequence[tuple[LayerState, ...]], valid: Tensor) -> Tensor:
        end: Tensor = self.flow(y, t, told, mask, inside, banks[i], valid)
        if not self.guidance:
            return end
        free = self.flow(y, t, self.flow.unguided(told), mask, inside, banks[self.steps + i], valid)
        return torch.add(end, end - free, alpha=self.guidance)


def moments(i: int, steps: Tensor) -> Tensor:
    """(slots,) float64: where on the path solver step i of `steps` begins, 1 - cos(pi/2 · i / steps)."""
    return 1 - torch.cos(math.pi / 2 * (i / steps.double()).clamp(max=1))


def sees(n: int, config: FlowConfig, lookahead: int, start: Tensor, valid: Tensor, kept: int) -> Tensor:
    """(slots, 1, n, kept + n) bool: a frame sees its own chunk and `left` frames before it; start: (slots,) frames that
    came before these; kept: how many of them are keys."""
    size = config.chunk * (lookahead + 1)
    key = torch.arange(-kept, n, device=start.device)
    begin = (torch.arange(n, device=start.device) // size * size)[:, None]
    there = (key >= -start[:, None]) & (key < valid[:, None])
    near = (key >= begin - config.left) & (key < begin + size)
    mask = there[:, None] & near
    # a frame of padding sees nothing; let it see everything, so that no softmax divides zero by zero
    return (mask | ~mask.any(-1, keepdim=True))[:, None]


def sinusoid(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width) float64, sines then cosines."""
    rate = torch.exp(torch.arange(width // 2, device=t.device, dtype=torch.float64) * (-math.log(1e4) / (width // 2)))
    angle = (_STEPS_A_UNIT * t.double())[:, None] * rate
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def gaussian(seed: Tensor, at: Tensor, width: int) -> Tensor:
    """(slots, n, width) float64 normal numbers, a function of seed (slots,) and frame number at: (slots, n) and nothing
    else (Box and Muller 1958)."""
    counter = (at[..., None] * width + torch.arange(width, device=at.device)) * 2
    first, second = (uniform(seed[:, None, None], counter + i) for i in (0, 1))
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)
