"""Time as integer samples, and what a lookahead costs in delay.

Everything inside the project counts samples; seconds are made here, where a person reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import BadLookahead

OFFLINE = 69  # lookahead R of a whole 5.6 s chunk: what "offline" means


@dataclass(frozen=True)
class Clock:
    """The time grid of a recogniser.

    rate: samples a second; frame: samples between encoder frames; reach: samples after a frame's centre that its
    features still need (half the analysis window).
    """

    rate: int = 16000
    frame: int = 1280
    reach: int = 200

    def frame_sample(self, frame: int) -> int:
        """The sample an encoder frame is centred on."""
        return frame * self.frame

    def seconds(self, sample: int) -> float:
        return sample / self.rate

    def ms(self, samples: int) -> float:
        return 1000 * samples / self.rate

    def chunk_samples(self, lookahead: int) -> int:
        """Samples between two results at lookahead R."""
        return (lookahead + 1) * self.frame

    def worst_delay(self, lookahead: int) -> int:
        """Samples from a sound to the result that holds it when it falls on a chunk's first frame; half a chunk less on
        average. At R this is (R + 1) * 80 ms + 12.5 ms."""
        return self.chunk_samples(lookahead) + self.reach

    def lookahead_ms(self, lookahead: int) -> int:
        return lookahead * self.frame * 1000 // self.rate

    def lookahead_frames(self, ms: float | str) -> tuple[int, str]:
        """R for a lookahead in ms ("offline" or 0 to 5520), rounded down, and a note when it was rounded.

        Raises BadLookahead outside the range.
        """
        if ms == "offline":
            return OFFLINE, ""
        step = self.frame * 1000 / self.rate
        try:
            asked = float(ms)
        except ValueError:
            asked = -1.0
        if not 0 <= asked <= OFFLINE * step:
            raise BadLookahead(f"lookahead {ms!r} is not `offline` or a number of ms from 0 to {OFFLINE * step:g}")
        frames = int(asked / step + 1e-9)
        note = "" if frames * step == asked else f"lookahead {asked:g} ms is rounded down to {frames * step:g} ms"
        return frames, note
