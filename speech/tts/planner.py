"""The token planner: speech tokens in, frames for the flow out, as the acoustic model draws them from phones.

Tokens come from a tokenizer (or a model that writes them), one every 80 or 40 ms; a frame for every 20 of these comes
out. A recogniser's frame tells of sound before its own time, so what lies after that is told by the next ones: the
planner waits for `ahead` tokens and otherwise looks back only, so it is a stage. The flow makes speech of the frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from vivavoce.streaming.buffers import count_mask, take_items
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from . import mel, tokens
from .blocks import ConvBlock

FRAMES = tokens.HOP * mel.RATE // tokens.RATE // mel.HOP  # a token of 80 ms


@dataclass(frozen=True)
class PlannerConfig:
    """levels: the tokenizer's; fingerprint: of the tokenizer whose tokens it reads; condition: features a frame beside
    its mean, as many as the flow takes; ahead: tokens that are waited for; frames: that a token stands for."""

    levels: tuple[int, ...]
    fingerprint: str
    condition: int
    width: int = 192
    hidden: int = 512
    layers: int = 4
    kernel: int = 7
    ahead: int = 2
    frames: int = FRAMES


@dataclass(frozen=True, eq=False)
class PlannerState(State):
    """blocks: what each convolution remembers, (slots, kernel - 1, width); window: (slots, 1 + ahead) the last tokens,
    -1 before the first; held: (slots,) int64 how many of them have not been drawn."""

    blocks: tuple[Tensor, ...]
    window: Tensor
    held: Tensor


class Planner(nn.Module):
    """Tokens (slots, n) int64 -> (slots, frames n, 82 + condition). A `Stage`."""

    def __init__(self, config: PlannerConfig) -> None:
        super().__init__()
        self.config = config
        self.fsq = tokens.Fsq(config.levels)
        self.enter = nn.Linear((2 + config.ahead) * len(config.levels), config.width)
        self.place = nn.Parameter(torch.randn(config.frames, config.width) * 0.1)
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
        made = Fraction(mel.RATE, mel.HOP)
        return StageSpec(made / self.config.frames, made)

    def init_state(self, slots: int) -> PlannerState:
        c, like = self.config, self.enter.weight.detach()
        return PlannerState(tuple(like.new_zeros(slots, c.kernel - 1, c.width) for _ in self.blocks),
                            torch.full((slots, 1 + c.ahead), -1, device=like.device),
                            torch.zeros(slots, dtype=torch.int64, device=like.device))

    @torch.no_grad()
    def step(self, x: Tensor, state: PlannerState, valid: Tensor, final: Tensor,
             lookahead: int = 0) -> tuple[Tensor, Tensor]:
        """x: (slots, n) int64. Returns (slots, frames m, 82 + condition), (slots,)."""
        ahead, n = self.config.ahead, x.shape[1]
        x = torch.where(count_mask(valid, n), x, -1)
        joined = torch.cat((state.window, x, x.new_full((len(x), ahead), -1)), dim=1)
        total = state.held + valid
        held = torch.where(final, 0, total.clamp(max=ahead))
        first = 1 + ahead - state.held
        state.window.copy_(take_items(joined, valid[:, None] + torch.arange(1 + ahead, device=x.device)))
        state.held.copy_(held)
        count = self.config.frames * (total - held)
        if n + ahead == 0:
            return self.place.new_zeros(len(x), 0, self.width), count
        at = first[:, None] - 1 + torch.arange(n + 2 * ahead + 1, device=x.device)
        around = take_items(joined, at.clamp(max=joined.shape[1] - 1)).unfold(1, 2 + ahead, 1)
        return self._draw(around, state, count), count

    def forward(self, x: Tensor, stranger: Tensor | None = None) -> Tensor:
        """Whole utterances with gradients: (B, n), -1 past the last -> (B, frames n, 82 + condition). stranger: (B,
        width) how another voice than its own differs, in training."""
        ahead = self.config.ahead
        around = nn.functional.pad(x, (1, ahead), value=-1).unfold(1, 2 + ahead, 1)
        return self._draw(around, None, None, stranger)

    def _draw(self, around: Tensor, state: PlannerState | None, valid: Tensor | None,
              stranger: Tensor | None = None) -> Tensor:
        """around: (B, n, 2 + ahead) each token with the one before and those after it, -1 where there is none."""
        values = self.fsq.values(around.clamp(min=0)).to(self.enter.weight.dtype) * (around >= 0)[..., None]
        h = self.enter(values.flatten(2))
        h = h if stranger is None else h + stranger[:, None]
        h = (h[:, :, None] + self.place).flatten(1, 2)
        for i, block in enumerate(self.blocks):
            h = block(h) if state is None else block(h, state.blocks[i], valid)
        return self.out(self.norm(h))  # type: ignore[no-any-return]
