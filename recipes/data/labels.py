"""Phone labels for the loss: which phone an encoder hears in each half of each frame.

Phones with their first samples come from `align` (recordings) or `timed` (synthetic speech); rows of classes leave, as
they lie beside a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vivavoce.speech.asr.phones import CLASS, LABELS_A_FRAME, SILENCE

FRAME = 1280  # samples of an encoder frame at 16 kHz

Timed = Sequence[tuple[int, str]]
"""(first sample, phone) in order; what is none of the phones is silence."""


def frame_classes(phones: Timed, frames: int, stretch: float = 1.0) -> npt.NDArray[np.int64]:
    """The class at the middle of each half of each encoder frame, (2 frames,); frame t is centred on 1280 t.

    stretch: how many times longer the sound has become since the phones were timed.
    """
    starts = np.array([sample for sample, _ in phones] or [0]) * stretch
    classes = np.array([CLASS.get(name, SILENCE) for _, name in phones] or [SILENCE], np.int64)
    moment = np.arange(LABELS_A_FRAME * frames) * (FRAME // LABELS_A_FRAME) - FRAME // 4
    at = np.searchsorted(starts, moment, side="right") - 1
    return np.where(at < 0, SILENCE, classes[np.maximum(at, 0)])


def stack(rows: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Rows of any lengths as one array, -1 (no label) after a row's end."""
    most = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, most - len(row)), constant_values=-1) for row in rows])
