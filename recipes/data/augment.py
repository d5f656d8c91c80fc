"""Augmentation while training: `Augment` changes 16 kHz waveforms, `SpecAugment` changes log-mel frames.

Utterances come from `batches`, noises and recorded rooms from noise manifests, simulated rooms from `rooms`; what is
drawn depends only on (seed, utterance index, epoch), so a resumed run hears the same.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor

RATE = 16000
Audio = npt.NDArray[np.float32]
Stored = npt.NDArray[np.int16]


@dataclass(frozen=True)
class AugmentConfig:
    """How often each change is made (0..1) and how far it goes.

    speed: share, and the most it departs from 1. pitch: share, and the most its logarithm departs from 0.
    snr: dB, least and most. gain: dB, least and most.
    """

    speed: float = 0.7
    speed_range: float = 0.1
    pitch: float = 0.0
    pitch_range: float = 0.3
    room: float = 0.3
    rooms: int = 50
    noise: float = 0.5
    babble: float = 0.1
    snr: tuple[float, float] = (0.0, 30.0)
    telephone: float = 0.1
    codec: float = 0.05
    gain: tuple[float, float] = (-20.0, 3.0)
    clipping: float = 0.03


def change_speed(audio: Audio, factor: float) -> Audio:
    """Play `factor` times as fast: pitch and formants move along, as between a child and a man."""
    return np.asarray(soxr.resample(audio, RATE * factor, RATE, quality="MQ"), np.float32)


def stretch(audio: Audio, factor: float) -> Audio:
    """`factor` times as long at the same pitch: pieces of it overlap where they fit best (WSOLA, Verhelst and Roelands
    1993)."""
    hop, search = 256, 200  # 16 ms; 12.5 ms either way find the same place in a period of 80 Hz
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    count = round(len(audio) * factor)
    pieces = -(-count // hop) + 1
    padded = np.pad(audio, (search + hop, 2 * search + 4 * hop))
    made = np.zeros((pieces + 1) * hop, np.float32)
    follows = padded[search : search + 2 * hop]  # what came after the last piece where it was taken from
    for k in range(pieces):
        place = min(round(k * hop / factor), len(audio) + hop)
        near = padded[place : place + 2 * search + 2 * hop]
        place += int(np.correlate(near, follows, "valid").argmax())
        made[k * hop : (k + 2) * hop] += window * padded[place : place + 2 * hop]
        follows = padded[place + hop : place + 3 * hop]
    return made[hop : hop + count]


def change_pitch(audio: Audio, factor: float) -> Audio:
    """Pitch and formants `factor` times as high, as long as before."""
    return _fit(change_speed(stretch(audio, factor), factor), len(audio))


def reverberate(audio: Audio, response: Audio) -> Audio:
    """Convolve with a room's response, same length and loudness (the tail after the end is cut)."""
    size = 1 << (len(audio) + len(response) - 2).bit_length()
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(response, size), size)[: len(audio)]
    return (wet * (_rms(audio) / max(_rms(wet), 1e-9))).astype(np.float32)


def mix(audio: Audio, noise: Audio, snr: float) -> Audio:
    """Add noise of the same length so that speech is `snr` dB above it, by their root mean squares."""
    level = _rms(noise)
    if level < 1e-6:
        return audio
    return (audio + noise * (_rms(audio) / level * 10 ** (-snr / 20))).astype(np.float32)


def telephone(audio: Audio) -> Audio:
    """300 to 3400 Hz at 8 kHz through 8-bit mu-law, as a landline does."""
    narrow = np.asarray(soxr.resample(audio, RATE, RATE // 2, quality="MQ"))
    hertz = np.fft.rfftfreq(len(narrow), 2 / RATE)
    band = np.clip((hertz - 200) / 100, 0, 1) * np.clip((3700 - hertz) / 300, 0, 1)
    narrow = np.clip(np.fft.irfft(np.fft.rfft(narrow) * band, len(narrow)), -1, 1)
    code = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    narrow = np.sign(code) * (256 ** np.abs(code) - 1) / 255
    wide = soxr.resample(narrow.astype(np.float32), RATE // 2, RATE, quality="MQ")
    return _fit(np.asarray(wide, np.float32), len(audio))


def gsm(audio: Audio) -> Audio:
    """Through the GSM 06.10 codec of early mobile telephones, at 8 kHz."""
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(audio, RATE, RATE // 2), RATE // 2, format="WAV", subtype="GSM610")
    file.seek(0)
    narrow, _ = soundfile.read(file, dtype="float32")
    return _fit(np.asarray(soxr.resample(narrow, RATE // 2, RATE), np.float32), len(audio))


def clip(audio: Audio, share: float) -> Audio:
    """Overdrive until about `share` of the samples stand at the limit."""
    limit = float(np.quantile(np.abs(audio), 1 - share))
    return np.clip(audio, -limit, limit) if limit > 0 else audio


def _rms(audio: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0


def _fit(audio: Audio, count: int) -> Audio:
    return audio[:count] if len(audio) >= count else np.pad(audio, (0, count - len(audio)))


def _looped(sound: Stored, count: int, rng: np.random.Generator) -> Audio:
    """`count` samples of a sound from a random place on, repeated when it is shorter."""
    start = int(rng.integers(len(sound)))
    looped = np.take(sound, np.arange(start, start + count), mode="wrap")
    return looped.astype(np.float32) / np.float32(32768)


class Augment:
    """Changes one waveform at random.

    noises: environmental sounds; speech: other people's utterances, for babble (both int16 at 16 kHz). rooms: float32
    responses at 16 kHz, simulated and recorded. An empty sequence switches its change off.
    """

    def __init__(
        self,
        config: AugmentConfig,
        seed: int,
        noises: Sequence[Stored] = (),
        speech: Sequence[Stored] = (),
        rooms: Sequence[Audio] = (),
    ) -> None:
        self.config, self.seed = config, seed
        self.noises = [n for n in noises if len(n)]
        self.speech = [s for s in speech if len(s)]
        self.rooms = list(rooms)

    def __call__(self, audio: Audio, index: int, epoch: int) -> Audio:
        """audio: (n,) float32 at 16 kHz in [-1, 1]; returns (m,), m differing only when the speed changes."""
        c, rng = self.config, np.random.default_rng((self.seed, index, epoch))
        if not len(audio):
            return audio
        if rng.random() < c.speed:
            audio = change_speed(audio, float(rng.uniform(1 - c.speed_range, 1 + c.speed_range)))
        if rng.random() < c.pitch:
            audio = change_pitch(audio, float(np.exp(rng.uniform(-c.pitch_range, c.pitch_range))))
        if self.rooms and rng.random() < c.room:
            audio = reverberate(audio, self.rooms[int(rng.integers(len(self.rooms)))])
        if self.noises and rng.random() < c.noise:
            noise = _looped(self.noises[int(rng.integers(len(self.noises)))], len(audio), rng)
            audio = mix(audio, noise, float(rng.uniform(*c.snr)))
        if self.speech and rng.random() < c.babble:
            audio = mix(audio, self._babble(len(audio), rng), float(rng.uniform(max(c.snr[0], 5.0), c.snr[1])))
        return self._channel(audio, rng)

    def _babble(self, count: int, rng: np.random.Generator) -> Audio:
        chosen = rng.integers(len(self.speech), size=int(rng.integers(3, 7)))
        together = np.zeros(count, np.float32)
        for i in chosen:
            together += _looped(self.speech[int(i)], count, rng)
        return together

    def _channel(self, audio: Audio, rng: np.random.Generator) -> Audio:
        """What happens between the microphone and us: gain, clipping, narrow bands."""
        c = self.config
        peak = float(np.abs(audio).max(initial=1e-6))
        audio = audio * np.float32(10 ** (rng.uniform(*c.gain) / 20) / max(peak, 0.05))
        if rng.random() < c.clipping:
            audio = clip(audio, float(rng.uniform(0.001, 0.05)))
        if rng.random() < c.telephone:
            audio = telephone(audio)
        if rng.random() < c.codec:
            audio = gsm(audio)
        return np.clip(audio, -1, 1)


@dataclass(frozen=True)
class SpecAugment:
    """Masks on log-mel frames (Park et al., arXiv 1904.08779) after a warp of the frequency axis as by a longer or
    shorter vocal tract (Jaitly and Hinton 2013) and an equaliser as of another microphone (FilterAugment, Nam et al.,
    arXiv 2110.03282).

    frequency_masks bands of up to frequency_width mels; time_masks spans of up to time_share of an utterance's frames;
    warp: the most a vocal tract's factor departs from 1; equalizer: the most a band's level moves, dB. Masked values
    become the utterance's mean.
    """

    frequency_masks: int = 2
    frequency_width: int = 20
    time_masks: int = 5
    time_share: float = 0.05
    warp: float = 0.12
    equalizer: float = 0.0

    def __call__(self, mel: Tensor, frames: Tensor, seed: int) -> Tensor:
        """mel: (B, T, mels), frames: (B,) how many of the T count; returns (B, T, mels), decided by `seed`."""
        g = torch.Generator().manual_seed(seed)
        factors = 1 + self.warp * (2 * torch.rand(mel.shape[0], generator=g) - 1)
        if self.warp > 0:
            mel = warp_frequencies(mel, factors.to(mel))
        if self.equalizer > 0:
            mel = mel + equalizers(mel.shape[0], mel.shape[2], self.equalizer, g)[:, None].to(mel)
        rows, count, mels = mel.shape
        inside = torch.arange(count, device=mel.device) < frames[:, None]
        mean = (mel * inside[..., None]).sum((1, 2)) / (frames.clamp(min=1) * mels)
        widest = torch.full((rows, 1), float(self.frequency_width))
        bands = _spans(torch.full((rows, 1), float(mels)), widest, self.frequency_masks, g)
        lengths = frames.cpu()[:, None].float()
        spans = _spans(lengths, self.time_share * lengths, self.time_masks, g)
        masked = _covered(spans.to(mel.device), count)[:, :, None] | _covered(bands.to(mel.device), mels)[:, None]
        return torch.where(masked, mean[:, None, None].to(mel.dtype), mel)


def equalizers(rows: int, mels: int, most: float, g: torch.Generator, points: int = 6) -> Tensor:
    """(rows, mels) what random equalisers add to log-mel frames, in nats of power: levels drawn within +-`most` dB at
    both ends and at `points` - 2 places between, straight lines from one to the next, no change of the mean."""
    level = most * (2 * torch.rand(rows, points, generator=g) - 1)
    inner = torch.sort(torch.rand(rows, points - 2, generator=g), 1).values * (mels - 1)
    place = torch.cat([torch.zeros(rows, 1), inner, torch.full((rows, 1), float(mels - 1))], 1)
    mel = torch.arange(mels, dtype=torch.float32).expand(rows, mels).contiguous()
    right = torch.searchsorted(place, mel).clamp(1, points - 1)
    near, far = (place.gather(1, i) for i in (right - 1, right))
    share = (mel - near) / (far - near).clamp(min=1e-6)
    curve = torch.lerp(level.gather(1, right - 1), level.gather(1, right), share)
    return (curve - curve.mean(1, keepdim=True)) * float(np.log(10) / 10)


def _spans(length: Tensor, widest: Tensor, masks: int, g: torch.Generator) -> Tensor:
    """(B, masks, 2): starts and ends of random spans inside [0, length)."""
    width = torch.floor(torch.rand(length.shape[0], masks, generator=g) * (widest.floor() + 1)).minimum(length)
    start = torch.floor(torch.rand(length.shape[0], masks, generator=g) * (length - width + 1))
    return torch.stack([start, start + width], -1)


def _covered(spans: Tensor, count: int) -> Tensor:
    """(B, count): whether a place lies in any of the row's spans."""
    place = torch.arange(count, device=spans.device)
    return ((place >= spans[..., :1]) & (place < spans[..., 1:])).any(1)


def mel_centres(mels: int) -> Tensor:
    """(mels,) the filters' centres in Hz on Slaney's scale, 0 to 8 kHz: linear to 1 kHz, logarithmic above."""
    step, knee, ratio = 200 / 3, 15.0, np.log(6.4) / 27
    top = knee + np.log(RATE / 2 / 1000) / ratio
    points = torch.linspace(0, float(top), mels + 2, dtype=torch.float64)[1:-1]
    return torch.where(points < knee, points * step, 1000 * torch.exp(ratio * (points - knee)))


def warp_frequencies(mel: Tensor, factors: Tensor, limit: float = 4800.0) -> Tensor:
    """Move the frequency axis of log-mel frames by a factor a row: what lay at f lands near f · factor.

    Linear up to `limit` Hz, then a straight line to 8 kHz, so that no band is lost. mel: (B, T, mels), factors: (B,).
    """
    centres = mel_centres(mel.shape[-1]).to(mel)
    knee = limit * factors.clamp(max=1.0)[:, None]  # (B, 1) in Hz of the output
    below = centres / factors[:, None]
    source_knee, top = knee / factors[:, None], RATE / 2
    above = top - (top - source_knee) / (top - knee) * (top - centres)
    hertz = torch.where(centres <= knee, below, above)  # (B, mels): where each output band reads
    right = torch.searchsorted(centres, hertz.contiguous()).clamp(1, len(centres) - 1)
    left = right - 1
    weight = ((hertz - centres[left]) / (centres[right] - centres[left])).clamp(0, 1)[:, None]
    picked = [mel.gather(2, i[:, None].expand(mel.shape)) for i in (left, right)]
    return torch.lerp(picked[0], picked[1], weight)
