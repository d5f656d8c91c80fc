"""What a voice's frames are, and how a recording is turned into them: 24 kHz PCM in, a frame every 20 ms out.

A frame is 80 log-mel magnitudes, the logarithm of the pitch, and whether there is one (`Frames`). Frame t tells of
samples 480 t to 480 (t + 1): its spectrum is of a window about their middle, its pitch that at their end, so that a
vocoder can draw the pitch between two ends. Recordings come from training data and measurements; frames go to training.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

RATE, HOP, WINDOW = 24_000, 480, 1024
MELS = 80
PITCH, VOICED, WIDTH = MELS, MELS + 1, MELS + 2  # places in a frame: log of Hz / 200, 0 or 1; and how wide it is
MIDDLE = 200.0  # Hz; near 0 a logarithm keeps more digits, and a vocoder adds up what they say over seconds
BEFORE = (WINDOW - HOP) // 2  # samples of a frame's window that lie before its own
FLOOR = 1e-5  # the smallest magnitude told apart from silence
LOW, HIGH = 60.0, 500.0  # Hz of pitch looked for
_STEPS, _PITCH_WINDOW = 128, 1200  # candidates, and samples looked at: three periods of the lowest


def frames(pcm: Tensor) -> Tensor:
    """Whole recordings (n,) float32 at 24 kHz in [-1, 1] -> (n // 480, 82)."""
    hertz, voiced = pitch(pcm)
    return torch.cat((log_mel(pcm), (hertz / MIDDLE).log()[:, None], voiced.float()[:, None]), dim=1)


def log_mel(pcm: Tensor) -> Tensor:
    """(..., n) -> (..., n // 480, 80): natural logarithm of mel magnitudes, at least log(1e-5)."""
    count = pcm.shape[-1] // HOP
    if not count:
        return pcm.new_zeros(*pcm.shape[:-1], 0, MELS)
    padded = F.pad(pcm, (BEFORE, WINDOW))
    windows = padded.unfold(-1, WINDOW, HOP)[..., :count, :] * torch.hann_window(WINDOW).to(pcm)
    power = torch.fft.rfft(windows).abs().square()
    return torch.log((power @ filters().to(pcm)).sqrt().clamp(min=FLOOR))


@cache
def filters() -> Tensor:
    """(WINDOW / 2 + 1, MELS): triangles of height 1, evenly spaced on the scale 2595 log10(1 + f / 700)."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    hz = 700 * (10 ** (torch.linspace(0, top, MELS + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    low, centre, high = hz[:-2], hz[1:-1], hz[2:]
    return torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0).float()


def pitch(pcm: Tensor) -> tuple[Tensor, Tensor]:
    """Pitch at the end of every frame: (T,) Hz, drawn straight through where there is none, and (T,) bool whether
    there is.

    Autocorrelation divided by the window's own (Boersma 1993), and the cheapest path through its peaks.
    """
    count = pcm.shape[-1] // HOP
    if not count:
        return pcm.new_zeros(0), torch.zeros(0, dtype=torch.bool)
    strength, candidates = _strength(pcm, count)
    path = _best_path(strength.numpy(), loud=_loudness(pcm, count).numpy())
    voiced = torch.from_numpy(path >= 0)
    logs = _between(strength, torch.from_numpy(path).clamp(min=0), candidates)
    logs, voiced = mend(logs, voiced)
    return logs.exp().to(pcm.dtype), voiced


def mend(logs: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of pitch (T,) drawn straight through where there is none; what lies an octave and more from the middle
    of them was no pitch (hiss, or every second period)."""
    if not bool(voiced.any()):
        return torch.full_like(logs, math.log(MIDDLE)), voiced
    off = logs - logs[voiced].median()
    voiced = voiced & (off > -0.8) & (off < 0.65)
    at = voiced.nonzero()[:, 0].numpy()
    return torch.from_numpy(np.interp(np.arange(len(logs)), at, logs[voiced].numpy())).to(logs.dtype), voiced


def _strength(pcm: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """How periodic the sound is at each candidate, (T, STEPS), about -1 to 1; and the candidates' logarithms."""
    half = _PITCH_WINDOW // 2
    padded = F.pad(pcm.double(), (half - HOP, _PITCH_WINDOW))
    windows = padded.unfold(-1, _PITCH_WINDOW, HOP)[:count]
    windows = (windows - windows.mean(1, keepdim=True)) * torch.hann_window(_PITCH_WINDOW, dtype=torch.float64)
    size = 4096
    hz = torch.linspace(0, RATE / 2, size // 2 + 1, dtype=torch.float64)
    lowpass = 1 / (1 + (hz / 1200) ** 8)
    own = torch.fft.irfft(torch.fft.rfft(torch.hann_window(_PITCH_WINDOW, dtype=torch.float64), size).abs() ** 2)
    auto = torch.fft.irfft(torch.fft.rfft(windows, size).abs() ** 2 * lowpass)
    auto = auto / auto[:, :1].clamp(min=1e-9) * (own[0] / own.clamp(min=1e-3 * float(own[0])))
    candidates = torch.linspace(math.log(LOW), math.log(HIGH), _STEPS, dtype=torch.float64)
    lag = RATE / candidates.exp()
    below = lag.long()
    part = lag - below
    return auto[:, below] * (1 - part) + auto[:, below + 1] * part, candidates


def _loudness(pcm: Tensor, count: int) -> Tensor:
    """(T,) root mean square about each frame's end, relative to the loudest."""
    padded = F.pad(pcm.double(), (0, 2 * HOP))
    rms = padded.unfold(-1, 2 * HOP, HOP)[:count].square().mean(1).sqrt()
    return rms / rms.max().clamp(min=1e-9)


def _best_path(strength: npt.NDArray[np.float64], loud: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(T,) the candidate of each frame, -1 where unvoiced: Viterbi with a price for every jump and every change."""
    steps = strength.shape[1]
    octave = math.log2(HIGH / LOW) / (steps - 1)
    place = np.arange(steps)
    jump = np.zeros((steps + 1, steps + 1))
    jump[:steps, :steps] = 0.9 * octave * np.abs(place[:, None] - place)
    jump[steps, :steps] = jump[:steps, steps] = 0.25
    unvoiced = 0.55 + np.maximum(0.0, 2 - loud / 0.02)
    gain = np.concatenate((strength + 0.03 * octave * place, unvoiced[:, None]), axis=1)
    best, back = gain[0], np.zeros((len(gain), steps + 1), np.int64)
    for t in range(1, len(gain)):
        totals = best[:, None] - jump
        back[t] = totals.argmax(0)
        best = totals[back[t], np.arange(steps + 1)] + gain[t]
    path = np.empty(len(gain), np.int64)
    path[-1] = best.argmax()
    for t in range(len(gain) - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    path[path == steps] = -1
    return path


def _between(strength: Tensor, place: Tensor, candidates: Tensor) -> Tensor:
    """The logarithm of Hz at the top of the parabola through a candidate and its neighbours, (T,)."""
    inner = place.clamp(1, len(candidates) - 2)[:, None]
    left, middle, right = (strength.gather(1, inner + i)[:, 0] for i in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp(max=-1e-9)
    offset = (0.5 * (left - right) / bend).clamp(-1, 1)
    return candidates[inner[:, 0]] + offset * (candidates[1] - candidates[0])
