"""Recordings for training a voice: decoded, measured once, and kept in a cache beside the run.

Manifests come from the data folder's corpora; recordings go to the vocoder's excerpts and to the acoustic model's
batches. What is slow to compute (the pitch) is read from the cache the next time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vivavoce.recipes.data import manifest
from vivavoce.recipes.train.resume import keep
from vivavoce.speech import audio
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.tts import mel


@dataclass(frozen=True)
class Recording:
    """One utterance. pcm: (n,) int16 at 24 kHz; frames: (n // 480, 82) float32."""

    path: str
    speaker: str
    split: str
    text: str
    pcm: Tensor
    frames: Tensor

    @property
    def seconds(self) -> float:
        return len(self.pcm) / mel.RATE


def gather(speech: Path, corpora: Sequence[str], cache: Path) -> list[Recording]:
    """Every recording of these corpora (folders of `speech`), loudness evened out, sorted by path.

    Raises BadManifest, BadAudio, and BadConfig when there is nothing to hear.
    """
    recordings = []
    for corpus in corpora:
        recordings += _corpus(speech / corpus, cache / f"{corpus}.pt")
    if not recordings:
        raise BadConfig(f"{speech}: no recordings in {', '.join(corpora) or 'no corpora'}; name at least one in the "
                        "configuration's `corpora`")
    return recordings


def _corpus(folder: Path, cache: Path) -> list[Recording]:
    utterances = [u for u in manifest.load(folder) if u.text]
    key = zlib.crc32((folder / manifest.NAME).read_bytes())
    if cache.is_file():
        kept = torch.load(cache, weights_only=True)
        if kept["key"] == key:
            return [Recording(r["path"], r["speaker"], r["split"], r["text"], r["pcm"], r["frames"].float())
                    for r in kept["recordings"]]
    recordings = []
    for u in utterances:
        pcm = level(audio.read(u.path, mel.RATE))
        whole = (pcm * 32767).round().to(torch.int16)
        recordings.append(Recording(str(u.path), u.speaker, u.split, u.text, whole, mel.frames(whole.float() / 32768)))
    cache.parent.mkdir(parents=True, exist_ok=True)
    keep({"key": key, "recordings": [vars(r) | {"frames": r.frames.half()} for r in recordings]}, cache)
    return recordings


def level(pcm: Tensor, rms: float = 0.08) -> Tensor:
    """The same sound with its louder half at this root mean square, and no sample over 0.98."""
    blocks = pcm[: len(pcm) // mel.HOP * mel.HOP].view(-1, mel.HOP).square().mean(1)
    loud = blocks.sort().values[len(blocks) // 2 :].mean().sqrt()
    scaled = pcm * (rms / loud.clamp(min=1e-6))
    return scaled * (0.98 / scaled.abs().max().clamp(min=0.98))


def excerpt(recording: Recording, start: int, frames: int) -> tuple[Tensor, Tensor]:
    """`frames` frames from `start` on and their samples: (frames, 82) and (480 frames,) float32."""
    pcm = recording.pcm[start * mel.HOP : (start + frames) * mel.HOP].float() / 32768
    return recording.frames[start : start + frames], pcm
