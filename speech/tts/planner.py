"""The token planner: speech tokens in, frames for the flow out, as the acoustic model draws them from phones.

Tokens come from a tokenizer (or a model that writes them), one every 80 ms; four frames come out for each. Everything
looks back only, so it is a stage. The flow makes speech of it in the voice that the planner was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from vivavoce.streaming.buffers import take_items
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from . import mel, tokens
from .blocks import ConvBlock

FRAMES = tokens.HOP * mel.RATE // tokens.RATE // mel.HOP  # a token


@dataclass(frozen=True)
class PlannerConfig:
    """levels: the tokenizer's; fingerprint: of the tokenizer whose tokens it reads; condition: features a frame beside
    its mean, as many as the flow takes."""

    levels: tuple[int, ...]
    fingerprint: str
    condition: int
    width: int = 192
    hidden: int = 512
    layers: int = 4
    kernel: int = 7


@dataclass(frozen=True, eq=False)
class PlannerState(State):
    """blocks: what each convolution remembers, (slots, kernel - 1, width); before: (slots, 1) the last token, -1 before
    the first."""

    blocks: tuple[Tensor, ...]
    before: Tensor


class Planner(nn.Module):
    """Tokens (slots, n) int64 -> (slots, 4 n, 82 + condition). A `Stage`."""

    def __init__(self, config: PlannerConfig) -> None:
        super().__init__()
        self.config = config
        self.fsq = tokens.Fsq(config.levels)
        self.enter = nn.Linear(2 * len(config.levels), config.width)
        self.place = nn.Parameter(torch.randn(FRAMES, config.width) * 0.1)
        self.blocks = nn.ModuleList(
            ConvBlock(config.width, config.hidden, config.kernel, causal=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, mel.WIDTH + config.condition)

    @property
    def width(self) -> int:
        """Of the frames it draws."""
        return mel.WIDTH + self.config.condition

    @property
    def spec(self) -> StageSpec:
        return StageSpec(Fraction(tokens.RATE, tokens.HOP), Fraction(mel.RATE, mel.HOP))

    def init_state(self, slots: int) -> PlannerState:
        c, like = self.config, self.enter.weight.detach()
        return PlannerState(tuple(like.new_zeros(slots, c.kernel - 1, c.width) for _ in self.blocks),
                            torch.full((slots, 1), -1, device=like.device))

    @torch.no_grad()
    def step(self, x: Tensor, state: PlannerState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        """x: (slots, n) int64. Returns (slots, 4 n, 82 + condition), (slots,)."""
        if x.shape[1] == 0:
            return self.place.new_zeros(len(x), 0, self.width), FRAMES * valid
        joined = torch.cat((state.before, x), dim=1)
        state.before.copy_(take_items(joined, valid[:, None]))
        return self._draw(joined, state, FRAMES * valid), FRAMES * valid

    def forward(self, x: Tensor) -> Tensor:
        """Whole utterances with gradients: (B, n) -> (B, 4 n, 82 + condition)."""
        return self._draw(nn.functional.pad(x, (1, 0), value=-1), None, None)

    def _draw(self, joined: Tensor, state: PlannerState | None, valid: Tensor | None) -> Tensor:
        """joined: (B, 1 + n) tokens, the first only known as the one before."""
        values = self.fsq.values(joined.clamp(min=0)).to(self.enter.weight.dtype) * (joined >= 0)[..., None]
        h = self.enter(torch.cat((values[:, 1:], values[:, :-1]), dim=-1))
        h = (h[:, :, None] + self.place).flatten(1, 2)
        for i, block in enumerate(self.blocks):
            h = block(h) if state is None else block(h, state.blocks[i], valid)
        return self.out(self.norm(h))  # type: ignore[no-any-return]
