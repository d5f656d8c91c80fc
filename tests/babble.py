"""A tiny recogniser of random weights that babbles different words for different sounds, and such sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models

from vivavoce.speech import checkpoint
from vivavoce.speech.asr.model import AsrConfig, AsrModel
from vivavoce.speech.nn.encoder import EncoderConfig

PIECES = ["▁ba", "▁do", "▁ke", "li", "mu", "no", "▁ru", "si", "▁ta", "vo", "we"]


def save_babbler(folder: Path) -> None:
    """The model, in the project's own layout."""
    torch.manual_seed(7)
    encoder = EncoderConfig(mels=80, width=32, layers=2, heads=2, hidden=64, channels=8, dropout=0.0)
    model = AsrModel(AsrConfig(name="tiny", encoder=encoder, pieces=len(PIECES), gate=None)).eval()
    assert model.ctc is not None
    with torch.no_grad():  # no label is the favourite everywhere, and neighbouring frames differ in theirs
        pcm = torch.from_numpy(noise(20))[None]
        frames, _ = model(pcm, torch.tensor([pcm.shape[1]]), 1)
        model.ctc.linear.weight.mul_(10)
        model.ctc.linear.bias.sub_(model.ctc.linear(frames).mean((0, 1)))
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(PIECES)}, merges=[]))
    checkpoint.save(model, tokenizer, folder)


def noise(seconds: float, seed: int = 0, rate: int = 16000) -> npt.NDArray[np.float32]:
    """(samples,) of noise whose colour and loudness change every 0.2 s."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(round(seconds * rate))
    for i, part in enumerate(np.array_split(x, max(1, round(seconds * 5)))):
        part *= np.cos(np.arange(len(part)) * rng.uniform(0, 3)) * 10 ** rng.uniform(-3, -1) * (i % 4 > 0)
    return np.clip(x, -1, 1).astype(np.float32)
