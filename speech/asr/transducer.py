"""The transducer: prediction network, joint, loss, and greedy decoding of RNN-T and TDT over a batch of streams.

Encoder frames come in, 80 ms apart; tokens with their frames and confidences come out. Modules and weights are laid
out as transformers lays out NeMo's (its joint's two input projections belong to the encoder and the prediction
network); the blank is the last token index. RNN-T: Graves 2012. TDT: arXiv 2304.06795.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivavoce.speech.errors import BadConfig
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .ctc import FRAME_HZ
from .words import Emissions, pack_left


class PredictionNetwork(nn.Module):
    """Embedding, LSTM and projection over the tokens so far; the blank's embedding, zero when trained here, starts."""

    def __init__(self, vocab: int, hidden: int, joint: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blank = vocab
        self.embedding = nn.Embedding(vocab + 1, hidden, padding_idx=vocab)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.decoder_projector = nn.Linear(hidden, joint)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (batch, U) int64. Returns (batch, U + 1, joint): the output before each token and after the last."""
        y, _ = self.lstm(self.embedding(F.pad(tokens, (1, 0), value=self.blank)))
        projected: Tensor = self.decoder_projector(y)
        return projected

    def advance(self, token: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token further. token: (n,); h, c: (n, layers, hidden). Returns the output (n, joint) and new h, c.

        One fused cell a layer: a call of `nn.LSTM` for a single step costs several times as much on a CPU.
        """
        y = self.embedding(token)
        hs, cs = [], []
        for layer in range(self.lstm.num_layers):
            y, cell = torch.lstm_cell(y, (h[:, layer], c[:, layer]), *self._cell(layer))
            hs.append(y)
            cs.append(cell)
        return self.decoder_projector(y), torch.stack(hs, 1), torch.stack(cs, 1)

    def _cell(self, layer: int) -> list[Tensor]:
        return [getattr(self.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


class Joint(nn.Module):
    """ReLU and a linear layer over the sum of both projections; TDT adds a logit for each duration."""

    def __init__(self, joint: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(joint, outputs)

    def forward(self, encoder: Tensor, prediction: Tensor) -> Tensor:
        """Broadcasts (..., joint) with (..., joint). Returns logits (..., vocab + 1 + durations)."""
        logits: Tensor = self.head(self.dropout(F.relu(encoder + prediction)))
        return logits


class Transducer(nn.Module):
    """Everything of a transducer that comes after the encoder.

    d: width of encoder frames. durations: () for RNN-T; for TDT the frames a token may last, such as (0, 1, 2, 3, 4).
    """

    durations: Tensor

    def __init__(
        self,
        d: int,
        vocab: int,
        hidden: int = 640,
        joint: int | None = None,
        layers: int = 2,
        durations: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        joint = joint or hidden
        self.blank = vocab
        self.encoder_projector = nn.Linear(d, joint)
        self.decoder = PredictionNetwork(vocab, hidden, joint, layers, dropout)
        self.joint = Joint(joint, vocab + 1 + len(durations), dropout)
        self.register_buffer("durations", torch.tensor(durations, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        """The whole lattice. x: (batch, T, d); targets: (batch, U) int64. Returns logits (batch, T, U + 1, outputs)."""
        logits: Tensor = self.joint(self.encoder_projector(x)[:, :, None], self.decoder(targets)[:, None])
        return logits

    def loss(self, x: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """RNN-T loss in nats an utterance, mean over the batch.

        x: (batch, T, d); lengths: (batch,) frames, at least one; targets: (batch, U) int64, what lies past
        target_lengths (batch,) being ignored. Raises BadConfig for a TDT model.
        """
        if self.durations.numel():
            raise BadConfig("training a TDT model is not supported: build the transducer with durations=() (RNN-T)")
        from torchaudio.functional import rnnt_loss

        frames, symbols = int(lengths.max()), int(target_lengths.max())
        past = torch.arange(symbols, device=targets.device) >= target_lengths[:, None]
        targets = targets[:, :symbols].masked_fill(past, 0)
        loss: Tensor = rnnt_loss(
            self(x[:, :frames], targets).float(),
            targets.int(),
            lengths.int(),
            target_lengths.int(),
            blank=self.blank,
        )
        return loss

    def best(
        self, encoder: Tensor, prediction: Tensor, penalty: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(token, duration, probability of the token), each of the shape the projections broadcast to.

        A blank lasts at least a frame. Without durations a blank lasts one frame and any other token none. penalty:
        nats to add to every label but blank, of that shape.
        """
        logits = self.joint(encoder, prediction)
        if penalty is not None:
            logits = torch.cat([logits[..., : self.blank] + penalty[..., None], logits[..., self.blank :]], dim=-1)
        token_logits = logits[..., : self.blank + 1]
        value, token = token_logits.max(-1)
        probability = (value - token_logits.logsumexp(-1)).exp()
        is_blank = (token == self.blank).long()
        if not self.durations.numel():
            return token, is_blank, probability
        duration = self.durations[logits[..., self.blank + 1 :].argmax(-1)]
        return token, torch.maximum(duration, is_blank), probability


class GatedTransducer:
    """A `Transducer` as its greedy decoder uses it, for frames whose last channel is a penalty (see voice.py)."""

    def __init__(self, inner: Transducer) -> None:
        self.inner, self.decoder, self.joint, self.blank = inner, inner.decoder, inner.joint, inner.blank

    def encoder_projector(self, x: Tensor) -> Tensor:
        """x: (slots, T, d + 1). Returns (slots, T, joint + 1), the penalty still last."""
        return torch.cat([self.inner.encoder_projector(x[..., :-1]), x[..., -1:]], dim=-1)

    def best(self, encoder: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Transducer.best`."""
        return self.inner.best(encoder[..., :-1], prediction, encoder[..., -1])


@dataclass(frozen=True, eq=False)
class TransducerState(State):
    """h, c, prediction: the prediction network after the last token. frames: heard so far. skip: how far into the next
    chunk the last TDT duration reaches. spoken: one past the last frame of the last token.
    """

    h: Tensor  # (slots, layers, hidden)
    c: Tensor  # (slots, layers, hidden)
    prediction: Tensor  # (slots, joint)
    frames: Tensor  # (slots,) int64
    skip: Tensor  # (slots,) int64
    spoken: Tensor  # (slots,) int64

    @property
    def trailing_blanks(self) -> Tensor:
        """Frames of silence at the end of what was heard, (slots,)."""
        return (self.frames - self.spoken).clamp(min=0)


@dataclass(frozen=True)
class _Found:
    """The next label of some rows: (n,) each; where `emitted` is false the row ran out of frames at `offset`."""

    emitted: Tensor
    offset: Tensor
    token: Tensor
    duration: Tensor
    probability: Tensor


class TransducerGreedy:
    """Greedy RNN-T and TDT decoding by label looping (arXiv 2406.06220): a Stage over encoder frames.

    All streams go from label to label together: while the prediction stays, the joint looks at `window` frames at once
    and blanks are followed to the next label by pointer doubling. max_symbols: labels at one frame before time is
    pushed on by one, as in NeMo.
    """

    spec = StageSpec(in_hz=FRAME_HZ, out_hz=FRAME_HZ)

    def __init__(self, model: Transducer | GatedTransducer, max_symbols: int = 10, window: int = 8) -> None:
        self.model, self.max_symbols, self.window = model, max_symbols, window

    @torch.no_grad()
    def init_state(self, slots: int) -> TransducerState:
        """Fresh streams, the prediction network having seen the start; on the model's device and in its dtype."""
        lstm, weight = self.model.decoder.lstm, self.model.joint.head.weight
        zeros = weight.new_zeros(slots, lstm.num_layers, lstm.hidden_size)
        count = torch.zeros(slots, dtype=torch.int64, device=weight.device)
        prediction, h, c = self.model.decoder.advance(count + self.model.blank, zeros, zeros)
        return TransducerState(h, c, prediction, count, count.clone(), count.clone())

    @torch.no_grad()
    def step(
        self, x: Tensor, state: TransducerState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Emissions, Tensor]:
        """x: (slots, T, d). Returns emissions (slots, m) and how many of each row count; nothing is held back."""
        encoder = self.model.encoder_projector(x)
        cursor, symbols = state.skip.clone(), torch.zeros_like(state.skip)
        columns: list[tuple[Tensor, ...]] = []
        while (rows := (cursor < valid).nonzero()[:, 0]).numel():
            found = self._next_label(encoder, state.prediction, cursor, valid, rows)
            columns.append(self._emit(found, rows, state, cursor, symbols))
        state.frames.add_(valid)
        state.skip.copy_(cursor - valid)
        return self._gather(columns, state)

    def _next_label(self, encoder: Tensor, prediction: Tensor, cursor: Tensor, valid: Tensor, rows: Tensor) -> _Found:
        """From each row's cursor over blanks to its next label, or to the window's or the chunk's end."""
        left = (valid - cursor)[rows]
        width = min(self.window, int(left.max()))
        offset = torch.arange(width, device=encoder.device)
        frame = (cursor[rows, None] + offset).clamp(max=encoder.shape[1] - 1)
        token, duration, probability = self.model.best(encoder[rows[:, None], frame], prediction[rows, None])
        passes = (token == self.model.blank) & (offset < left[:, None])
        at = _follow(torch.where(passes, offset + duration, offset))
        inside = at.clamp(max=width - 1)[:, None]
        token, duration, probability = (v.gather(1, inside)[:, 0] for v in (token, duration, probability))
        return _Found((at < width) & (at < left), at, token, duration, probability)

    def _emit(
        self, found: _Found, rows: Tensor, state: TransducerState, cursor: Tensor, symbols: Tensor
    ) -> tuple[Tensor, ...]:
        """Move the rows' cursors and prediction networks. Returns columns (slots,): emitted, token, frame, end, p."""
        symbols[rows] = torch.where(found.offset > 0, 0, symbols[rows])
        frame = cursor[rows] + found.offset
        stuck = (found.duration == 0) & (symbols[rows] + 1 >= self.max_symbols)
        advance = torch.where(found.emitted, found.duration + stuck.long(), 0)
        symbols[rows] = torch.where(found.emitted & (advance == 0), symbols[rows] + 1, 0)
        cursor[rows] = frame + advance
        speaking = rows[found.emitted]
        state.prediction[speaking], state.h[speaking], state.c[speaking] = self.model.decoder.advance(
            found.token[found.emitted], state.h[speaking], state.c[speaking]
        )
        frame = frame + state.frames[rows]
        end = frame + found.duration.clamp(min=1)
        state.spoken[speaking] = end[found.emitted]
        values = (found.emitted, found.token, frame, end, found.probability)
        return tuple(v.new_zeros(state.slots).index_copy(0, rows, v) for v in values)

    def _gather(self, columns: list[tuple[Tensor, ...]], state: TransducerState) -> tuple[Emissions, Tensor]:
        if not columns:
            none = state.frames.new_zeros(state.slots, 0)
            return Emissions(none, none, none, none.to(state.prediction.dtype)), torch.zeros_like(state.frames)
        emitted, *values = (torch.stack(v, dim=1) for v in zip(*columns, strict=True))
        packed, count = pack_left(emitted, *values)
        longest = int(count.max())
        return Emissions(*(v[:, :longest] for v in packed)), count


def _follow(jump: Tensor) -> Tensor:
    """Where a walk from position 0 ends. jump: (n, width), the next position; a walk stops at one that jumps to itself
    and at any past the width. Doubling the jumps needs log2(width) rounds rather than width.
    """
    width = jump.shape[1]
    past = torch.arange(width, max(int(jump.max()), width) + 1, device=jump.device).expand(len(jump), -1)
    jump = torch.cat([jump, past], dim=1)
    for _ in range(width.bit_length()):
        jump = jump.gather(1, jump)
    return jump[:, 0]
