"""A voice: phones of a phrase to a plan, and the stages that make sound of plans. Loaded from a folder, as it is saved.

The synthesizer asks for plans and steps `stage`, a chain of look-ahead, flow and vocoder, in an engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from vivavoce.speech import config as configs
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.weights import Precision, fit, pack, read, unpack, write
from vivavoce.streaming.chain import Chain, ChainState

from . import mel
from .acoustic import Acoustic
from .config import VoiceConfig
from .flow import Flow, FlowStage, FlowState
from .phones import IDS, PAUSE, SYMBOLS
from .vocoder import Vocoder, VocoderState

CONFIG = "config.json"
MODEL_TYPE = "vivavoce_voice"  # what `model_type` of config.json says
LONGEST_PAUSE = 25  # frames: half a second
MOST_LOOKAHEAD = 19  # chunks of the flow beyond the first: 2 s at 5 frames a chunk


@dataclass(frozen=True)
class Plan:
    """frames: (T, width) what a stage takes, one every 20 ms; durations: how many of them each phone has."""

    frames: Tensor
    durations: list[int]


class Voice(nn.Module):
    """Acoustic model, flow and vocoder of one speaker."""

    sample_rate = mel.RATE
    frame_samples = mel.HOP
    timed = True

    def __init__(self, config: VoiceConfig) -> None:
        super().__init__()
        self.config = config
        self.acoustic = Acoustic(config.acoustic, config.symbols, len(config.speakers))
        self.flow = Flow(config.flow, self.acoustic.width)
        self.vocoder = Vocoder(config.vocoder)

    @classmethod
    def load(cls, source: str | Path = "lj-en", device: str | torch.device = "cpu") -> Self:
        """source: a shipped voice's name, or a folder with config.json and model.safetensors.

        Raises BadCheckpoint when there is none or it is broken, BadConfig for a key that is not known.
        """
        folder = _locate(source)
        values = configs.read_json(folder / CONFIG)
        if values.pop("model_type", None) != MODEL_TYPE:
            raise BadCheckpoint(f"{folder}: not a voice; its {CONFIG} must say \"model_type\": \"{MODEL_TYPE}\"")
        config = configs.parse(VoiceConfig, values, str(folder / CONFIG))
        if config.symbols > len(SYMBOLS):
            raise BadCheckpoint(f"{folder}: it reads {config.symbols} symbols, this version knows {len(SYMBOLS)}; "
                                "install the version that it was trained with")
        voice = cls(config)
        fit(voice, unpack(read(folder)), str(folder))
        return voice.eval().requires_grad_(False).to(device)

    def save(self, folder: str | Path, *, dtype: Precision = "float32") -> None:
        """Weights last, so that a folder with weights is complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = {"model_type": MODEL_TYPE, **configs.to_dict(self.config)}
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
        write(pack(self, dtype), folder / "model.safetensors")

    @property
    def width(self) -> int:
        """Of a plan's frames."""
        return self.acoustic.width

    def plan(self, phones: Sequence[int], *, rate: float = 1.0) -> Plan:
        """phones: ids of one phrase, laid out as phones.py says; rate: how many times as fast as usual.

        Raises ValueError for an id outside the table, no phones, or a rate that is not positive.
        """
        if not phones or min(phones) < 0 or max(phones) >= self.config.symbols or not 0 < rate < float("inf"):
            raise ValueError(f"a plan needs phones of 0 to {self.config.symbols - 1} and a rate over 0, not "
                             f"{list(phones)[:8]} and {rate}")
        device = self.flow.out.weight.device
        frames, durations = self.acoustic.plan(torch.tensor(list(phones), device=device), self._speaker, rate)
        return Plan(frames, durations.tolist())

    def pause(self, frames: int) -> Plan:
        """Silence of so many frames, in pieces no longer than the pauses of recordings."""
        lengths = [LONGEST_PAUSE] * (frames // LONGEST_PAUSE) + [frames % LONGEST_PAUSE] * (frames % LONGEST_PAUSE > 0)
        durations = torch.tensor([lengths], dtype=torch.int64, device=self.flow.out.weight.device)
        phones = torch.full_like(durations, IDS[PAUSE])
        counts, speaker = (torch.tensor([n], device=phones.device) for n in (len(lengths), self._speaker))
        with torch.no_grad():
            drawn = self.acoustic.draw(self.acoustic.read(phones, counts, speaker), durations)
        return Plan(drawn[0], lengths)

    def stage(self, *, steps: int = 4, guidance: float = 0.0, temperature: float = 0.7) -> Chain:
        """Plan frames (slots, n, width) -> PCM (slots, samples): a chain of look-ahead, flow and vocoder.

        steps: of the flow's solver at most, 1 to 10; `fresh` gives a slot fewer. Its lookahead R makes chunks of
        (R + 1) · 100 ms, to MOST_LOOKAHEAD.
        """
        flow = FlowStage(self.flow, self.acoustic.mean, self.acoustic.deviation, steps=steps, guidance=guidance,
                         temperature=temperature)
        told = mel.WIDTH + self.config.flow.width
        return Chain([self.flow.ahead, flow, self.vocoder], item_shapes=[(self.width,), (told,), (mel.WIDTH,)],
                     like=self.flow.out.weight.detach(), max_lookahead=MOST_LOOKAHEAD, block=400)

    @property
    def _speaker(self) -> int:
        return self.config.speakers.index(self.config.speaker)


def fresh(stage: Chain, *, seed: int = 0, steps: int = 0) -> ChainState:
    """A state of one slot for `Engine.open(snapshot=...)`: its noise drawn from `seed`, its solver steps at most the
    stage's (0: as many)."""
    state = stage.init_state(1)
    for part in state.stages:
        if isinstance(part, FlowState | VocoderState):
            part.seed.fill_(seed)
        if isinstance(part, FlowState) and steps:
            part.steps.clamp_(max=steps)
    return state


def voices() -> list[str]:
    """Names of the voices that ship with the package."""
    return sorted(_shipped())


def _shipped() -> dict[str, Path]:
    root = Path(str(resources.files("vivavoce.speech.models")))
    return {p.name: p for p in root.iterdir() if (p / CONFIG).is_file()
            and configs.read_json(p / CONFIG).get("model_type") == MODEL_TYPE}


def _locate(source: str | Path) -> Path:
    shipped = _shipped()
    if isinstance(source, str) and source in shipped:
        return shipped[source]
    if (Path(source) / CONFIG).is_file():
        return Path(source)
    raise BadCheckpoint(f"{source}: no such voice; give one that ships ({', '.join(shipped) or 'none does'}) or a "
                        f"folder that holds {CONFIG} and model.safetensors")
