"""The acoustic model: the phones of one phrase in, how long each lasts and what the mean frame sounds like out.

Phones come from the front end. Attention and convolutions over the phrase give each phone its context and its duration;
convolutions over the frames then draw the mean of all ways to say it (the prior of Matcha-TTS, arXiv 2309.03199, with a
decoder of its own). The flow makes one way to say it out of that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.streaming.buffers import count_mask

from . import mel
from .attention import Attention
from .blocks import ConvBlock
from .config import AcousticConfig
from .phones import IDS, PAD, PAUSE, SEPARATORS

PLACES = 4  # features that tell where in its phone a frame lies
MAY_VANISH = tuple(IDS[s] for s in (PAD, PAUSE, *SEPARATORS))  # all others last a frame at least


class Drawn(NamedTuple):
    """frames: (B, T, 82 + condition) the mean frame, normalised, and what else the flow is told; log_durations:
    (B, P) log of 1 + frames, as predicted."""

    frames: Tensor
    log_durations: Tensor


class PhoneLayer(nn.Module):
    def __init__(self, config: AcousticConfig) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(config.width), Attention(config.width, config.heads)
        self.conv = ConvBlock(config.width, config.hidden, config.kernel, causal=False, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """inside: (B, P) which phones there are."""
        x = x + self.dropout(self.attention(self.norm(x), inside[:, None, None]))
        return self.conv(x * inside[..., None])  # type: ignore[no-any-return]


class Acoustic(nn.Module):
    """Phones of whole phrases -> mean frames and conditions."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: AcousticConfig, symbols: int, speakers: int) -> None:
        super().__init__()
        w = config.width
        self.config = config
        self.register_buffer("mean", torch.zeros(mel.WIDTH))
        self.register_buffer("deviation", torch.ones(mel.WIDTH))
        self.phone, self.speaker = nn.Embedding(symbols, w), nn.Embedding(speakers, w)
        self.phone_layers = nn.ModuleList(PhoneLayer(config) for _ in range(config.phone_layers))
        self.duration = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, w), nn.GELU(), nn.Linear(w, 1))
        self.place = nn.Linear(PLACES, w)
        self.frame_layers = nn.ModuleList(
            ConvBlock(w, config.hidden, config.kernel, causal=False, dropout=config.dropout)
            for _ in range(config.frame_layers)
        )
        self.norm = nn.LayerNorm(w)
        self.out = nn.Linear(w, mel.WIDTH + config.condition)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def width(self) -> int:
        """Of the frames it draws."""
        return mel.WIDTH + self.config.condition

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames as in mel.py -> the same with mean 0 and deviation 1."""
        return (frames - self.mean) / self.deviation

    def read(self, phones: Tensor, counts: Tensor, speaker: Tensor) -> Tensor:
        """phones: (B, P) ids; counts: (B,) how many; speaker: (B,). Returns (B, P, width)."""
        inside = count_mask(counts, phones.shape[1])
        x = self.dropout(self.phone(phones)) + self.speaker(speaker)[:, None]
        for layer in self.phone_layers:
            x = layer(x, inside)
        return x * inside[..., None]  # type: ignore[no-any-return]

    def log_durations(self, read: Tensor) -> Tensor:
        return self.duration(read)[..., 0]  # type: ignore[no-any-return]

    def draw(self, read: Tensor, durations: Tensor) -> Tensor:
        """read: (B, P, width); durations: (B, P) frames of each, 0 past the last. Returns (B, T, 82 + condition)."""
        total = durations.sum(1)
        owner, places = expand(durations, int(total.max()))
        inside = count_mask(total, owner.shape[1])[..., None]
        x = read.gather(1, owner[..., None].expand(-1, -1, read.shape[2])) + self.place(places.to(read.dtype))
        for layer in self.frame_layers:
            x = layer(x * inside)
        return self.out(self.norm(x)) * inside  # type: ignore[no-any-return]

    def forward(self, phones: Tensor, counts: Tensor, speaker: Tensor, durations: Tensor) -> Drawn:
        """Training: durations are known."""
        read = self.read(phones, counts, speaker)
        return Drawn(self.draw(read, durations), self.log_durations(read))

    @torch.no_grad()
    def plan(self, phones: Tensor, speaker: int, rate: float) -> tuple[Tensor, Tensor]:
        """One phrase, (P,) ids, said `rate` times as fast as usual. Returns (T, 82 + condition) and (P,) durations."""
        counts = torch.tensor([len(phones)], device=phones.device)
        read = self.read(phones[None], counts, torch.tensor([speaker], device=phones.device))
        durations = settle(self.log_durations(read)[0], phones, rate)
        return self.draw(read, durations[None])[0], durations


def expand(durations: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """durations: (B, P) -> for each of `frames` frames the phone it belongs to, (B, frames), and where in it, (B,
    frames, PLACES): from the start, to the end, both in frames and bounded, as a share, and the phone's length."""
    ends = durations.cumsum(1)
    at = torch.arange(frames, device=durations.device)[None].expand(len(durations), -1).contiguous()
    owner = torch.searchsorted(ends, at, right=True).clamp(max=durations.shape[1] - 1)
    length = durations.gather(1, owner).clamp(min=1)
    since = (at - (ends - durations).gather(1, owner)).clamp(min=0)
    middle = since + 0.5
    places = torch.stack(
        (middle.clamp(max=8) / 4 - 1, (length - middle).clamp(0, 8) / 4 - 1, 2 * middle / length - 1, length.log() - 1),
        dim=-1,
    )
    return owner, places


def settle(log_durations: Tensor, phones: Tensor, rate: float) -> Tensor:
    """(P,) whole frames: what rounding takes from one phone goes to the next, so that a phrase keeps its length."""
    frames = (log_durations.double().exp() - 1).clamp(min=0) / rate
    vanishing = torch.isin(phones, torch.tensor(MAY_VANISH, device=phones.device))
    frames = torch.where(vanishing, frames.where(frames >= 0.5, 0), frames.clamp(min=1))
    ends = frames.cumsum(0).round().long()
    return torch.diff(F.pad(ends, (1, 0)))
