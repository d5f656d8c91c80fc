"""Phone labels for the loss: which phone an encoder hears in each half of each frame.

Phones with their first samples come from `align` (recordings) or `timed` (synthetic speech); rows of classes leave, as
they lie beside a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FRAME = 1280  # samples of an encoder frame at 16 kHz
LABELS_A_FRAME = 2
# ARPAbet; a phone's class is its place here plus one, 0 is silence
PHONES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
CLASSES = len(PHONES) + 1
_CLASS = {name: i + 1 for i, name in enumerate(PHONES)}

Timed = Sequence[tuple[int, str]]
"""(first sample, phone) in order; what is no phone of PHONES is silence."""


def frame_classes(phones: Timed, frames: int, stretch: float = 1.0) -> npt.NDArray[np.int64]:
    """The class at the middle of each half of each encoder frame, (2 frames,); frame t is centred on 1280 t.

    stretch: how many times longer the sound has become since the phones were timed.
    """
    starts = np.array([sample for sample, _ in phones] or [0]) * stretch
    classes = np.array([_CLASS.get(name, 0) for _, name in phones] or [0], np.int64)
    moment = np.arange(LABELS_A_FRAME * frames) * (FRAME // LABELS_A_FRAME) - FRAME // 4
    at = np.searchsorted(starts, moment, side="right") - 1
    return np.where(at < 0, 0, classes[np.maximum(at, 0)])


def stack(rows: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Rows of any lengths as one array, -1 (no label) after a row's end."""
    most = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, most - len(row)), constant_values=-1) for row in rows])
