"""Room impulse responses: simulated by the image method for shoebox rooms drawn by seed; `augment` convolves.

Nothing is read; `simulate` returns float32 responses at 16 kHz that begin with the direct sound, at unit height.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

RATE = 16000
SOUND = 343.0  # m/s
Response = npt.NDArray[np.float32]


def _axis(length: float, source: float, reach: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Image positions along one axis and how often each was reflected."""
    n = np.arange(-int(reach / (2 * length)) - 1, int(reach / (2 * length)) + 2)
    positions = np.concatenate([source + 2 * n * length, -source + 2 * n * length])
    return positions, np.concatenate([2 * np.abs(n), np.abs(n) + np.abs(n - 1)])


def image_method(
    size: npt.NDArray[np.float64],
    source: npt.NDArray[np.float64],
    microphone: npt.NDArray[np.float64],
    reverberation: float,
    seconds: float,
) -> Response:
    """The response of a shoebox room (Allen and Berkley 1979), (samples,) float32 from the direct sound on.

    `size`, `source` and `microphone` are (3,) in metres; `reverberation` is the time to fall by 60 dB in seconds
    (walls by Sabine's formula); `seconds` is the response's length.
    """
    walls = 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    absorbed = min(0.99, 0.161 * float(np.prod(size)) / (walls * reverberation))
    reflection = np.sqrt(1 - absorbed)
    direct = float(np.linalg.norm(source - microphone))
    axes = [_axis(size[i], source[i], direct + seconds * SOUND) for i in range(3)]
    squares = [(positions - microphone[i]) ** 2 for i, (positions, _) in enumerate(axes)]
    distance = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2]).ravel()
    bounces = (axes[0][1][:, None, None] + axes[1][1][:, None] + axes[2][1]).ravel()
    delay = (distance - direct) / SOUND * RATE
    heard = delay < seconds * RATE - 1
    delay, height = delay[heard], direct / distance[heard] * reflection ** bounces[heard]
    whole = delay.astype(np.int64)
    part = delay - whole  # a delay between two samples is shared by both
    count = int(seconds * RATE)
    response = np.bincount(whole, height * (1 - part), count) + np.bincount(whole + 1, height * part, count)
    return _without_rumble(response[:count].astype(np.float64))


def _without_rumble(response: npt.NDArray[np.float64]) -> Response:
    """All images are positive, which sums to a false bass; take out what lies under 100 Hz, keep the direct sound."""
    spectrum = np.fft.rfft(response)
    hertz = np.fft.rfftfreq(len(response), 1 / RATE)
    filtered = np.fft.irfft(spectrum * np.clip((hertz - 50) / 50, 0, 1), len(response))
    response32: Response = (filtered / np.abs(filtered).max()).astype(np.float32)
    return response32


@functools.lru_cache(maxsize=4)
def simulate(count: int, seed: int, seconds: float = 0.3) -> tuple[Response, ...]:
    """`count` rooms of 3 to 10 m, 0.15 to 0.7 s, the speaker 0.3 to 4 m off; the same seed gives the same rooms."""
    rng = np.random.default_rng((seed, 0x700))
    made = []
    for _ in range(count):
        size = rng.uniform((3, 3, 2.4), (10, 8, 4))
        microphone = rng.uniform(0.2, 0.8, 3) * size
        direction = rng.normal(size=3)
        step = rng.uniform(0.3, 4.0) * direction / np.linalg.norm(direction)
        source = np.clip(microphone + step, 0.1, size - 0.1)
        made.append(image_method(size, source, microphone, rng.uniform(0.15, 0.7), seconds))
    return tuple(made)
