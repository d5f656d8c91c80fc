"""Training of the vocoder: excerpts of recordings, their frames in, their sound out.

It learns from spectral distances, and from a certain step on from an adversary too. It needs no text, so it hears every
recording there is. At the end it is polished on what the speech model makes of the same recordings: their frames are
smoother than real ones, and a vocoder that has met such frames makes clear sound of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vivavoce.speech.tts import mel
from vivavoce.speech.tts.vocoder import Vocoder

from .adversary import Adversary
from .data import Recording, excerpt
from .schedule import OptimizerConfig
from .spectral import distance, mel_distance


@dataclass(frozen=True)
class SoundConfig:
    """batch: excerpts of `frames` frames each, of which the first `warm` only fill the model's memory.
    adversary_from: the step at which critics join, -1 never. made: share of excerpts with frames that the speech model
    made, where there are such."""

    batch: int = 8
    frames: int = 72
    warm: int = 8
    adversary_from: int = -1
    adversary_width: int = 32
    adversary_rate: float = 2e-4
    made: float = 0.6
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


class SoundPart:
    """A vocoder in training; a `Part`. made: by a recording's path, frames that were made of it."""

    def __init__(self, model: Vocoder, recordings: Sequence[Recording], config: SoundConfig, device: torch.device,
                 seed: int, made: Mapping[str, Tensor] | None = None) -> None:
        self.model: nn.Module = model.to(device)
        self.config, self.device, self.seed, self.made = config, device, seed, made or {}
        self.train = [r for r in recordings if r.split == "train" and len(r.frames) > config.frames]
        self.dev = [r for r in recordings if r.split == "dev"]
        self.adversary = Adversary(config.adversary_width).to(device) if config.adversary_from >= 0 else None
        if self.adversary is not None:
            self.optimizer = torch.optim.AdamW(self.adversary.parameters(), lr=config.adversary_rate, betas=(0.8, 0.99))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(batch, frames, 82) and (batch, 480 frames)."""
        draw = random.Random(self.seed * 1_000_003 + step)
        chosen = draw.choices(self.train, [len(r.frames) for r in self.train], k=self.config.batch)
        cut = [excerpt(self._heard(r, draw), draw.randrange(len(r.frames) - self.config.frames), self.config.frames)
               for r in chosen]
        return (torch.stack([f for f, _ in cut]).to(self.device), torch.stack([p for _, p in cut]).to(self.device))

    def _heard(self, recording: Recording, draw: random.Random) -> Recording:
        """With made frames, as often as the configuration says; the pitch stays that of the sound to be made."""
        made = self.made.get(recording.path)
        if made is None or draw.random() >= self.config.made:
            return recording
        frames = torch.cat((made[:, : mel.MELS].float(), recording.frames[: len(made), mel.MELS :]), dim=1)
        return replace(recording, frames=torch.cat((frames, recording.frames[len(made) :])))

    def loss(self, step: int) -> dict[str, Tensor]:
        frames, real = self.batch(step)
        with torch.autocast(self.device.type, enabled=False):  # FFTs and phases want every bit
            made = self.model(frames)
            first, last = self.config.warm * mel.HOP, real.shape[1] - 2 * mel.HOP
            made, real = made[:, first:last], real[:, first:last]
            losses = {"spectrum": distance(made, real), "mel": mel_distance(made, real)}
        if self.adversary is not None and step >= self.config.adversary_from:
            losses |= {"persuade": self._contest(made, real)}
        return losses

    def _contest(self, made: Tensor, real: Tensor) -> Tensor:
        assert self.adversary is not None
        self.optimizer.zero_grad(set_to_none=True)
        self.adversary.judge(made, real).backward()
        self.optimizer.step()
        self.adversary.requires_grad_(False)
        persuade = self.adversary.persuade(made, real)
        self.adversary.requires_grad_(True)
        return 0.2 * persuade

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """Mel distance in nats and spectral distance, on dev recordings."""
        assert isinstance(model, Vocoder)
        mels, spectra = [], []
        for r in self.dev[:8]:
            frames, real = excerpt(r, 0, min(len(r.frames), 400))
            made = model(frames[None].to(self.device)).cpu()
            mels.append(float(mel_distance(made, real[None])))
            spectra.append(float(distance(made, real[None])))
        return {"mel": sum(mels) / len(mels), "spectrum": sum(spectra) / len(spectra)} if mels else {}

    def state(self) -> dict[str, Any]:
        if self.adversary is None:
            return {}
        return {"adversary": self.adversary.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        if self.adversary is not None and state:
            self.adversary.load_state_dict(state["adversary"])
            self.optimizer.load_state_dict(state["optimizer"])
