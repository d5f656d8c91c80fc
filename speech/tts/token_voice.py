"""A voice that speaks by tokens: phones to speech tokens to frames, where `voice.Voice` goes by durations.

It plans as that voice does, so that a synthesizer cannot tell them apart, and shares its flow and vocoder. The writer
makes the tokens, the planner draws frames from them. A folder holds both, config.json names the voice they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import nn

from vivavoce.speech import config as configs
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.weights import Precision, fit, pack, read, unpack, write
from vivavoce.streaming.chain import Chain

from . import writer as writing
from .acoustic import MAY_VANISH
from .phones import SYMBOLS
from .planner import Planner, PlannerConfig
from .voice import CONFIG, Plan, Voice
from .writer import SAMPLING, Writer, WriterConfig

MODEL_TYPE = "vivavoce_token_voice"


@dataclass(frozen=True)
class TokenVoiceConfig:
    """voice: the one whose flow and vocoder it speaks with, by its name, or by its folder seen from this one."""

    name: str
    voice: str
    writer: WriterConfig
    planner: PlannerConfig


class TokenVoice(nn.Module):
    """Writer and planner, for a voice."""

    timed = False  # its durations are a guess, so a phrase cannot be cut out of what was planned with its neighbours

    def __init__(self, config: TokenVoiceConfig, voice: Voice) -> None:
        """Raises BadCheckpoint where writer, planner and voice were not trained with one another."""
        super().__init__()
        self.config = config
        self.writer, self.planner, self.voice = Writer(config.writer), Planner(config.planner), voice
        ours, other = config.writer.fingerprint, config.planner.fingerprint
        if ours != other:
            raise BadCheckpoint(f"{config.name}: it writes tokens of tokenizer {ours}, and its planner reads those of "
                                f"{other}; take both from one training run")
        if self.planner.width != voice.width or config.writer.symbols > len(SYMBOLS):
            raise BadCheckpoint(f"{config.name}: the voice {voice.config.name} takes frames of {voice.width} numbers "
                                f"and {len(SYMBOLS)} symbols, not {self.planner.width} and {config.writer.symbols}; it "
                                f"was trained for {config.voice}")

    @staticmethod
    def is_one(source: str | Path) -> bool:
        """Whether it is a folder of such a voice. Raises BadConfig."""
        path = Path(source) / CONFIG
        return path.is_file() and configs.read_json(path).get("model_type") == MODEL_TYPE

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Raises BadCheckpoint, BadConfig."""
        folder = Path(folder)
        values = configs.read_json(folder / CONFIG)
        if values.pop("model_type", None) != MODEL_TYPE:
            raise BadCheckpoint(f"{folder}: not a voice of tokens; its {CONFIG} must say \"model_type\": "
                                f"\"{MODEL_TYPE}\"")
        config = configs.parse(TokenVoiceConfig, values, str(folder / CONFIG))
        beside = folder / config.voice
        made = cls(config, Voice.load(beside if (beside / CONFIG).is_file() else config.voice))
        fit(made._own(), unpack(read(folder)), str(folder))
        return made.eval().requires_grad_(False).to(device)

    def save(self, folder: str | Path, *, dtype: Precision = "float32") -> None:
        """Weights last, so that a folder with weights is complete. The voice itself is not saved."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = {"model_type": MODEL_TYPE, **configs.to_dict(self.config)}
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
        write(pack(self._own(), dtype), folder / "model.safetensors")

    def _own(self) -> nn.Module:
        """What is saved: all but the voice."""
        return nn.ModuleDict({"writer": self.writer, "planner": self.planner})

    @property
    def sample_rate(self) -> int:
        return self.voice.sample_rate

    @property
    def frame_samples(self) -> int:
        return self.voice.frame_samples

    def plan(self, phones: Sequence[int], *, rate: float = 1.0, seed: int = 0) -> Plan:
        """As `Voice.plan`; each phone is said to last as long as any other. Raises ValueError as it does."""
        if not phones or min(phones) < 0 or max(phones) >= self.config.writer.symbols or not 0 < rate < float("inf"):
            raise ValueError(f"a plan needs phones of 0 to {self.config.writer.symbols - 1} and a rate over 0, not "
                             f"{list(phones)[:8]} and {rate}")
        tokens = writing.write(self.writer, phones, sampling=replace(SAMPLING, seed=seed))
        frames = self.planner(torch.tensor([tokens], device=self.planner.place.device))[0]
        if rate != 1:
            at = torch.arange(max(1, round(len(frames) / rate)), device=frames.device) * rate
            frames = frames[at.long().clamp(max=len(frames) - 1)]
        return Plan(frames, share(phones, len(frames)))

    def pause(self, frames: int) -> Plan:
        return self.voice.pause(frames)

    def stage(self, *, steps: int = 1) -> Chain:
        return self.voice.stage(steps=steps)


def share(phones: Sequence[int], frames: int) -> list[int]:
    """So many frames dealt out evenly to the phones, none to separators: their sum is `frames`."""
    sounding = torch.tensor([phone not in MAY_VANISH for phone in phones])
    if not bool(sounding.any()):
        sounding[:] = True
    ends = (sounding.cumsum(0) * frames / sounding.sum()).round().long()
    return torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
