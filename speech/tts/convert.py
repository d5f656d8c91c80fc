"""Voice conversion: what somebody says, at 16 kHz, said by a voice, at 24 kHz, while they speak.

Source speech becomes tokens, which keep the words and drop the speaker; planner, flow and vocoder say them in the
voice's own sound and pitch. A converter is a folder with config.json and model.safetensors, made for one voice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from vivavoce.speech import config as configs
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.weights import Precision, fit, pack, read, unpack, write
from vivavoce.streaming.chain import Chain

from . import mel
from .flow import FlowStage
from .planner import Planner, PlannerConfig
from .tokens import SpeechTokenizer, TokenizerConfig
from .voice import CONFIG, MOST_LOOKAHEAD, Voice

MODEL_TYPE = "vivavoce_converter"


@dataclass(frozen=True)
class ConverterConfig:
    """voice: the name of the voice whose flow and vocoder it was trained with."""

    name: str
    voice: str
    tokenizer: TokenizerConfig
    planner: PlannerConfig


class Converter(nn.Module):
    """A tokenizer and a planner that belong together, for a voice."""

    def __init__(self, config: ConverterConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = SpeechTokenizer(config.tokenizer)
        self.planner = Planner(config.planner)

    @classmethod
    def load(cls, source: str | Path = "lj-en-convert", device: str | torch.device = "cpu") -> Self:
        """source: one that ships, or a folder. Raises BadCheckpoint, also where tokenizer and planner do not belong
        together, and BadConfig."""
        shipped = Path(str(resources.files("vivavoce.speech.models"))) / source
        folder = shipped if (shipped / CONFIG).is_file() else Path(source)
        if not (folder / CONFIG).is_file():
            raise BadCheckpoint(f"{source}: no such converter; give a folder that `vivavoce train tts` exported as "
                                "`convert`")
        values = configs.read_json(folder / CONFIG)
        if values.pop("model_type", None) != MODEL_TYPE:
            raise BadCheckpoint(f"{folder}: not a converter; its {CONFIG} must say \"model_type\": \"{MODEL_TYPE}\"")
        converter = cls(configs.parse(ConverterConfig, values, str(folder / CONFIG)))
        fit(converter, unpack(read(folder)), str(folder))
        converter.check()
        return converter.eval().requires_grad_(False).to(device)

    def save(self, folder: str | Path, *, dtype: Precision = "float32") -> None:
        """Weights last, so that a folder with weights is complete. Raises BadCheckpoint as `check`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.check()
        values = {"model_type": MODEL_TYPE, **configs.to_dict(self.config)}
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
        write(pack(self, dtype), folder / "model.safetensors")

    def check(self) -> None:
        """Raises BadCheckpoint when the planner was trained on another tokenizer's tokens."""
        ours, wanted = self.tokenizer.fingerprint(), self.config.planner.fingerprint
        if ours != wanted:
            raise BadCheckpoint(f"{self.config.name}: its planner reads tokens of tokenizer {wanted}, and this one is "
                                f"{ours}; take both from one training run")

    def stage(self, voice: Voice, *, steps: int = 4, temperature: float = 0.7) -> Chain:
        """PCM (slots, n) at 16 kHz -> PCM (slots, m) at 24 kHz. Raises BadCheckpoint for a voice of another shape."""
        if self.planner.width != voice.width:
            raise BadCheckpoint(f"{self.config.name} plans frames of {self.planner.width} numbers, the voice "
                                f"{voice.config.name} takes {voice.width}; it was trained for {self.config.voice}")
        flow = FlowStage(voice.flow, voice.acoustic.mean, voice.acoustic.deviation, steps=steps,
                         temperature=temperature)
        told = mel.WIDTH + voice.config.flow.width
        return self.tokenizer.chain([(self.planner, ()), (voice.flow.ahead, (voice.width,)), (flow, (told,)),
                                     (voice.vocoder, (mel.WIDTH,))], max_lookahead=MOST_LOOKAHEAD)

    def convert(self, voice: Voice, pcm: Tensor, *, steps: int = 4, lookahead: int = 6) -> Tensor:
        """A whole recording: (n,) at 16 kHz -> (m,) at 24 kHz, of the same length to 80 ms."""
        stage = self.stage(voice, steps=steps)
        n = torch.tensor([len(pcm)], device=pcm.device)
        out, count = stage.step(pcm[None], stage.init_state(1), n, torch.ones_like(n, dtype=torch.bool), lookahead)
        return out[0, : int(count)]  # type: ignore[no-any-return]
