"""Echo cancellation: what the microphone hears less what the loudspeaker plays, so that the agent does not hear itself.

WebRTC's canceller, from the `livekit` package, at 24 kHz. What is given to the loudspeaker goes into `far`, what the
microphone heard comes through `near`; the canceller finds the delay between them by itself.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivavoce.speech.errors import MissingDependency

RATE = 24000
FRAME = RATE // 100  # the canceller works in frames of 10 ms
Samples = NDArray[np.float32]


class Canceller:
    """`near` and `far` may be called from different threads. Raises MissingDependency without livekit."""

    def __init__(self) -> None:
        self._frame, module = _livekit()
        self._module = module(echo_cancellation=True, high_pass_filter=True)
        self._played = np.zeros(0, np.float32)  # given to the loudspeaker, and not yet come to in `near`
        self._held = np.zeros(0, np.float32)
        self._lock = threading.Lock()

    def far(self, pcm: Samples) -> None:
        """(n,) float32 at 24 kHz that was given to the loudspeaker."""
        with self._lock:
            self._played = np.concatenate([self._played, pcm])

    def take_back(self, samples: int) -> None:
        """The last so many samples given were thrown away unheard."""
        with self._lock:
            self._played = self._played[: max(0, len(self._played) - samples)]

    def near(self, pcm: Samples) -> Samples:
        """(n,) float32 at 24 kHz from the microphone -> as much of it without the echo as whole frames allow."""
        self._held = np.concatenate([self._held, pcm])
        frames = len(self._held) // FRAME
        x, self._held = self._held[: frames * FRAME], self._held[frames * FRAME :]
        clean = [self._clean(x[i * FRAME : (i + 1) * FRAME]) for i in range(frames)]
        return np.concatenate([np.zeros(0, np.float32), *clean])

    def _clean(self, x: Samples) -> Samples:
        with self._lock:
            played, self._played = self._played[:FRAME], self._played[FRAME:]
        reverse = self._as_frame(np.pad(played, (0, FRAME - len(played))))
        self._module.process_reverse_stream(reverse)
        self._module.set_stream_delay_ms(0)
        frame = self._as_frame(x)
        self._module.process_stream(frame)
        return np.frombuffer(bytes(frame.data), np.int16).astype(np.float32) / np.float32(32768)

    def _as_frame(self, x: Samples) -> Any:
        data = (np.clip(x, -1, 1) * 32767).round().astype(np.int16).tobytes()
        return self._frame(data, RATE, 1, FRAME)


def _livekit() -> tuple[Any, Any]:
    try:
        from livekit.rtc import AudioFrame
        from livekit.rtc.apm import AudioProcessingModule
    except (ImportError, OSError) as e:  # OSError: its library does not fit this machine
        raise MissingDependency("echo cancellation needs livekit; pip install 'livekit>=1.0'") from e
    return AudioFrame, AudioProcessingModule
