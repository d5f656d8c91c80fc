"""Who judges the vocoder in the second half of its training: small convolutional critics over spectrograms.

One critic a resolution (UnivNet, arXiv 2106.07889), least-squares losses (LSGAN, arXiv 1611.04076) and the distance of
what the critics see inside (feature matching).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from .spectral import magnitudes

SIZES = (1200, 600, 300)


class Critic(nn.Module):
    """(B, n) PCM -> one score for each patch of its spectrogram of `size`, and the layers before."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        shapes = [(1, 1), (2, 1), (2, 1), (2, 1)]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(1 if i == 0 else width, width, (5, 3), stride=stride, padding=(2, 1)))
            for i, stride in enumerate(shapes)
        )
        self.score = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, pcm: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = torch.log(magnitudes(pcm, self.size) + 1e-3)[:, None]
        seen = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            seen.append(x)
        return self.score(x), seen


class Adversary(nn.Module):
    """All critics together."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.critics = nn.ModuleList(Critic(size, width) for size in SIZES)

    def judge(self, made: Tensor, real: Tensor) -> Tensor:
        """What the critics minimise: real sound scores 1, made sound 0. (B, n) each; made without gradient."""
        losses = [(1 - critic(real)[0]).square().mean() + critic(made.detach())[0].square().mean()
                  for critic in self.critics]
        return torch.stack(losses).mean()

    def persuade(self, made: Tensor, real: Tensor) -> Tensor:
        """What the vocoder minimises: made sound scores 1 and looks like the real inside."""
        total = made.new_zeros(())
        for critic in self.critics:
            with torch.no_grad():
                _, target = critic(real)
            score, seen = critic(made)
            likeness = sum(((a - b).abs().mean() for a, b in zip(seen, target, strict=True)), made.new_zeros(()))
            total = total + (1 - score).square().mean() + 2 * likeness / len(seen)
        return total / len(self.critics)
