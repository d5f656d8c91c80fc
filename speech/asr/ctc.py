"""The CTC head and its greedy decoder (Graves et al. 2006).

Encoder frames come in, 80 ms apart; tokens with their frames and confidences come out, each at the frame it is first
heard. The blank is the last token index, as in NeMo and transformers; beam search is in ctc_beam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .words import Emissions, pack_left

FRAME_HZ = Fraction(25, 2)  # encoder frames a second; a CTC decoder emits at most one token for each
LogProbs = Callable[[Tensor], Tensor]  # encoder frames (slots, T, d) -> log-probabilities (slots, T, vocab + 1)


class CtcHead(nn.Module):
    """One linear layer over encoder frames. A checkpoint's 1×1 convolution is `linear.weight` without its last axis."""

    def __init__(self, d: int, vocab: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d, vocab + 1)

    @property
    def blank(self) -> int:
        return self.linear.out_features - 1

    def forward(self, x: Tensor) -> Tensor:
        """x: (slots, T, d). Returns log-probabilities (slots, T, vocab + 1), float32 at least."""
        logits: Tensor = self.linear(x)
        return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)

    def loss(self, x: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """CTC loss in nats a target token, over the whole batch; an utterance too short for its text counts as zero.

        A batch of little speech counts as one token for 8 frames, so that noise does not weigh more than words.
        x: (batch, T, d); lengths: (batch,) frames; targets: (batch, U) int64; target_lengths: (batch,).
        """
        log_probs = self(x).transpose(0, 1)
        loss = F.ctc_loss(log_probs, targets, lengths, target_lengths, self.blank, reduction="sum", zero_infinity=True)
        return loss / torch.maximum(target_lengths.sum(), lengths.sum() / 8)


@dataclass(frozen=True, eq=False)
class GreedyState(State):
    """last: the best label of the last frame. frames: frames heard. spoken: one past the last frame not blank."""

    last: Tensor  # (slots,) int64
    frames: Tensor  # (slots,) int64
    spoken: Tensor  # (slots,) int64

    @property
    def trailing_blanks(self) -> Tensor:
        """Frames of silence at the end of what was heard, (slots,)."""
        return self.frames - self.spoken


class CtcGreedy:
    """The best label of each frame, repeats merged, blanks dropped: a Stage over encoder frames.

    A token is emitted at the first frame of its run, so greedy decoding adds no delay; its `end_frame` is therefore
    the next frame, and its confidence is its probability at that first frame.
    """

    spec = StageSpec(in_hz=FRAME_HZ, out_hz=FRAME_HZ)

    def __init__(self, head: LogProbs, blank: int) -> None:
        self.head, self.blank = head, blank

    def init_state(self, slots: int, device: torch.device | str = "cpu") -> GreedyState:
        zeros = torch.zeros(slots, dtype=torch.int64, device=device)
        return GreedyState(last=zeros + self.blank, frames=zeros.clone(), spoken=zeros.clone())

    @torch.no_grad()
    def step(
        self, x: Tensor, state: GreedyState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Emissions, Tensor]:
        """x: (slots, T, d). Returns emissions (slots, T) and how many of each row count; nothing is held back."""
        probability, label = self.head(x).max(dim=-1)
        frame = torch.arange(x.shape[1], device=x.device).expand_as(label)
        before = torch.cat([state.last[:, None], label[:, :-1]], dim=1)
        inside = frame < valid[:, None]
        keep = inside & (label != self.blank) & (label != before)
        columns, count = pack_left(keep, label, frame + state.frames[:, None], probability.exp())
        self._remember(state, label, frame, inside, valid)
        return Emissions(columns[0], columns[1], columns[1] + 1, columns[2]), count

    def _remember(self, state: GreedyState, label: Tensor, frame: Tensor, inside: Tensor, valid: Tensor) -> None:
        if label.shape[1] == 0:
            return
        at_end = label.gather(1, (valid - 1).clamp(min=0)[:, None])[:, 0]
        state.last.copy_(torch.where(valid > 0, at_end, state.last))
        past_speech = torch.where(inside & (label != self.blank), frame, -1).amax(1) + 1 + state.frames
        state.spoken.copy_(torch.where(past_speech > state.frames, past_speech, state.spoken))
        state.frames.add_(valid)
