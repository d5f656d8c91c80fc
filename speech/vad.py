"""Voice activity: the probability of speech for every 32 ms, from 16 kHz PCM.

The network and its weights are silero-vad's, read from the installed package; here it is a stage whose state is a
value, so that it runs for many sessions in one batch. Its probabilities go to `turn.Turn`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .errors import BadCheckpoint, MissingDependency

RATE = 16000
WINDOW = 512  # samples of one probability
CONTEXT = 64  # samples before the window that the network also sees
HIDDEN = 128

# silero-vad's names for ours. Its silero_vad_16k.safetensors, beside it, holds another training of the same network.
THEIRS = {
    "stft_conv.weight": "_model.stft.forward_basis_buffer",
    "conv1.": "_model.encoder.0.reparam_conv.",
    "conv2.": "_model.encoder.1.reparam_conv.",
    "conv3.": "_model.encoder.2.reparam_conv.",
    "conv4.": "_model.encoder.3.reparam_conv.",
    "lstm_cell.": "_model.decoder.rnn.",
    "final_conv.": "_model.decoder.decoder.2.",
}


@dataclass(frozen=True, eq=False)
class VadState(State):
    """held: (slots, 64 + 511), the context and the samples of an unfinished window; pending: (slots,), how many of the
    latter; h, c: (slots, 128), the LSTM."""

    held: Tensor
    pending: Tensor
    h: Tensor
    c: Tensor


class Vad(nn.Module):
    """A Stage: PCM (slots, n) at 16 kHz -> speech probabilities (slots, m), one a window of 512 samples.

    The last window of a stream is filled up with zeros, as silero-vad does. (Silero Team, "Silero VAD", v6,
    github.com/snakers4/silero-vad, MIT.)
    """

    spec = StageSpec(Fraction(RATE), Fraction(RATE, WINDOW))

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(HIDDEN, HIDDEN)
        self.final_conv = nn.Conv1d(HIDDEN, 1, 1)
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """With the weights of the silero-vad package, or of a copy of its `silero_vad.jit` at `path`.

        Raises MissingDependency without the package, BadCheckpoint for a file that is not these weights.
        """
        path = Path(path) if path else _packaged()
        vad = cls()
        read: Callable[..., nn.Module] = torch.jit.load  # which torch leaves untyped
        try:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # TorchScript as a mere archive
                theirs = read(path, map_location="cpu").state_dict()
            vad.load_state_dict({name: theirs[_their_name(name)] for name in vad.state_dict()})
        except (OSError, ValueError, KeyError, RuntimeError) as e:
            raise BadCheckpoint(
                f"{path} does not hold silero-vad's weights ({str(e).splitlines()[0]}); "
                "install them again: pip install --force-reinstall 'silero-vad>=6.2'"
            ) from e
        return vad

    def init_state(self, slots: int) -> VadState:
        """Fresh streams, on the weights' device and in their dtype."""
        w = self.lstm_cell.weight_hh
        return VadState(
            held=w.new_zeros(slots, CONTEXT + WINDOW - 1),
            pending=torch.zeros(slots, dtype=torch.int64, device=w.device),
            h=w.new_zeros(slots, HIDDEN),
            c=w.new_zeros(slots, HIDDEN),
        )

    @torch.no_grad()
    def step(
        self, x: Tensor, state: VadState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        """x: (slots, n) float PCM, valid: (slots,), final: (slots,) bool. Returns (slots, m), counts (slots,)."""
        have = state.pending + valid
        count = torch.where(final, have + WINDOW - 1, have) // WINDOW
        m = (x.shape[1] + WINDOW - 2) // WINDOW + 1  # the most that could be: depends on shapes alone
        work = self._append(x, state, valid, CONTEXT + m * WINDOW)
        y = self._remember(self._see(work.unfold(1, CONTEXT + WINDOW, WINDOW)), state, count)

        keep = torch.arange(state.held.shape[1], device=x.device) + (count * WINDOW)[:, None]
        state.held.copy_(F.pad(work, (0, WINDOW)).gather(1, keep))
        state.pending.copy_((have - count * WINDOW).clamp(min=0))
        return y, count

    def _append(self, x: Tensor, state: VadState, valid: Tensor, width: int) -> Tensor:
        """What is held, then x, then zeros, each row closed up: (slots, width)."""
        filled = CONTEXT + state.pending[:, None]
        at = torch.arange(width, device=x.device)
        capacity = state.held.shape[1]
        joined = torch.cat([state.held, x.to(state.held.dtype)], dim=1)
        source = torch.where(at < filled, at, at - filled + capacity).clamp(max=joined.shape[1] - 1)
        return torch.where(at < filled + valid[:, None], joined.gather(1, source), 0)

    def _see(self, windows: Tensor) -> Tensor:
        """(slots, m, 576) PCM -> (slots, m, 128): magnitude spectrum and convolutions, each window by itself."""
        x: Tensor = F.pad(windows.flatten(0, 1), (0, CONTEXT), mode="reflect")
        real, imaginary = self.stft_conv(x[:, None]).split(129, dim=1)
        x = (real**2 + imaginary**2).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        return x.reshape(*windows.shape[:2], HIDDEN)

    def _remember(self, seen: Tensor, state: VadState, count: Tensor) -> Tensor:
        """The LSTM over each row's first `count` windows: (slots, m, 128) -> probabilities (slots, m), 0 for the rest.

        Written out, since a cell of torch's takes three times as many operations, whose number is what it costs.
        """
        cell = self.lstm_cell
        seen = F.linear(seen, cell.weight_ih, cell.bias_ih + cell.bias_hh)
        recurrent, (h, c), after = cell.weight_hh.t(), (state.h, state.c), list[Tensor]()
        everybody = int(count.min()) if len(count) else 0
        for i, window in enumerate(seen.unbind(1)):
            gates = torch.addmm(window, h, recurrent)
            opened = gates.sigmoid()
            let_in, kept, _, let_out = opened.chunk(4, dim=1)
            new_c = torch.addcmul(kept * c, let_in, gates[:, 2 * HIDDEN : 3 * HIDDEN].tanh())
            new_h = let_out * new_c.tanh()
            after.append(new_h)
            if i >= everybody:
                real = (i < count)[:, None]
                new_h, new_c = torch.where(real, new_h, h), torch.where(real, new_c, c)
            h, c = new_h, new_c
        state.h.copy_(h)
        state.c.copy_(c)
        p: Tensor = self.final_conv(torch.stack(after, dim=2).relu()).sigmoid()[:, 0]
        return p.masked_fill(torch.arange(p.shape[1], device=p.device) >= count[:, None], 0.0)


def _their_name(ours: str) -> str:
    return next(theirs + ours.removeprefix(prefix) for prefix, theirs in THEIRS.items() if ours.startswith(prefix))


def _packaged() -> Path:
    spec = find_spec("silero_vad")  # its folder, without running its code
    if spec is None or spec.origin is None:
        raise MissingDependency("voice activity needs the silero-vad package; pip install 'silero-vad>=6.2'")
    return Path(spec.origin).parent / "data" / "silero_vad.jit"
