"""How far one waveform is from another, whatever their phases: the loss that the vocoder learns from.

Magnitudes of several resolutions at once (Parallel WaveGAN, arXiv 1910.11480): long windows tell harmonics apart, short
ones moments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivavoce.speech.tts import mel

RESOLUTIONS = (2048, 1024, 512, 256)


def magnitudes(pcm: Tensor, size: int) -> Tensor:
    """(B, n) -> (B, bins, T): magnitudes of Hann windows of `size`, a quarter apart."""
    window = torch.hann_window(size, device=pcm.device)
    spectrum = torch.stft(pcm, size, size // 4, window=window, center=False, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-9).sqrt()


def distance(made: Tensor, real: Tensor, resolutions: tuple[int, ...] = RESOLUTIONS) -> Tensor:
    """Mean over resolutions of the L1 distance of log magnitudes and the relative one of magnitudes; (B, n) each."""
    total = made.new_zeros(())
    for size in resolutions:
        with torch.no_grad():
            target = magnitudes(real, size)
        ours = magnitudes(made, size)
        quiet = 1e-3 * size**0.5
        logs = (torch.log(ours + quiet) - torch.log(target + quiet)).abs().mean()
        relative = torch.linalg.vector_norm(ours - target) / torch.linalg.vector_norm(target).clamp(min=1e-3)
        total = total + logs + relative
    return total / len(resolutions)


def mel_distance(made: Tensor, real: Tensor) -> Tensor:
    """Mean L1 distance of log-mel magnitudes, in nats; (B, n) each."""
    return (mel.log_mel(made) - mel.log_mel(real)).abs().mean()
