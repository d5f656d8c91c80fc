"""The store: every recording as it decodes, found again when it is of the same ones, made anew when it is not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from vivavoce.recipes.data.batches import read_audio
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.store import build
from vivavoce.speech.errors import BadAudio


def test_it_holds_what_decoding_gives_and_is_made_once(tmp_path: Path) -> None:
    rows = []
    for i, n in enumerate((1600, 5, 0, 8000)):
        sound = np.random.default_rng(i).uniform(-0.5, 0.5, n)
        soundfile.write(tmp_path / f"{i}.wav", sound, 8000 if i == 3 else 16000)
        rows.append(Utterance(tmp_path / f"{i}.wav", n / 16000, 16000, "s", "train", "x"))
    store = build(rows, tmp_path / "store", jobs=1)
    assert len(store) == 4
    for i, row in enumerate(rows):
        assert np.array_equal(store[i], read_audio(row))
    for row in rows:
        row.path.unlink()
    assert np.array_equal(build(rows, tmp_path / "store", jobs=1)[3], store[3])
    with pytest.raises(BadAudio, match=r"0\.wav"):
        build(rows[:1], tmp_path / "store", jobs=1)
