"""Phone labels: classes change where the phones do, also in sound that was stretched."""

import numpy as np

from vivavoce.recipes.data.labels import FRAME, frame_classes, stack
from vivavoce.speech.asr.phones import CLASS, CLASSES, PHONES

HALF = FRAME // 2


def test_classes_change_where_the_phones_do() -> None:
    phones = [(0, "SIL"), (3 * HALF, "S"), (5 * HALF, "unheard of"), (6 * HALF, "T")]
    s, t = CLASS["S"], CLASS["T"]
    assert frame_classes(phones, 4).tolist() == [0, 0, 0, 0, s, s, 0, t]
    assert frame_classes([], 2).tolist() == [0, 0, 0, 0]
    assert len(set(PHONES)) == len(PHONES) == CLASSES - 1


def test_what_plays_slower_is_labelled_later() -> None:
    phones = [(0, "SIL"), (2 * HALF, "S")]
    assert frame_classes(phones, 4, stretch=2.0).argmax() == 5
    assert frame_classes(phones, 4, stretch=1.0).argmax() == 3


def test_rows_are_padded_with_no_label() -> None:
    assert stack([np.array([1, 2, 3]), np.array([4])]).tolist() == [[1, 2, 3], [4, -1, -1]]
