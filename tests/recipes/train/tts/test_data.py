"""Recordings: measured once, then read from the cache; loudness evened out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vivavoce.recipes.train.tts import data
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.tts import mel


def test_a_corpus_is_measured_once(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.gather(data_folder / "speech", ["one"], tmp_path / "cache")
    monkeypatch.setattr(data.mel, "frames", None)  # reading the cache measures nothing
    again = data.gather(data_folder / "speech", ["one"], tmp_path / "cache")
    assert [r.text for r in again] == [r.text for r in first]
    assert all(torch.equal(a.pcm, b.pcm) for a, b in zip(first, again, strict=True))
    assert all(torch.allclose(a.frames, b.frames, atol=0.01) for a, b in zip(first, again, strict=True))
    assert first[0].seconds == pytest.approx(0.9)
    assert first[0].frames.shape == (45, mel.WIDTH)


def test_a_changed_manifest_is_read_anew(data_folder: Path, tmp_path: Path) -> None:
    data.gather(data_folder / "speech", ["one"], tmp_path / "cache")
    file = data_folder / "speech" / "one" / "manifest.tsv"
    file.write_text(file.read_text().replace("a cat sat", "a cow sat"))
    assert data.gather(data_folder / "speech", ["one"], tmp_path / "cache")[0].text == "a cow sat"


def test_no_corpora_no_training(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="name at least one"):
        data.gather(tmp_path, [], tmp_path)


def test_quiet_and_loud_recordings_come_out_alike_and_never_clip() -> None:
    pcm = torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(data.level(pcm * 0.01), data.level(pcm * 0.001), atol=1e-5)
    spike = torch.zeros(24_000)
    spike[5] = 1.0
    assert float(data.level(spike).abs().max()) <= 0.98 + 1e-6


def test_an_excerpt_is_sound_with_its_frames() -> None:
    pcm = torch.arange(10 * mel.HOP, dtype=torch.int16)
    frames = torch.arange(10.0)[:, None].expand(-1, mel.WIDTH)
    cut, heard = data.excerpt(data.Recording("", "", "", "", pcm, frames), 3, 4)
    assert cut[:, 0].tolist() == [3, 4, 5, 6]
    assert float(heard[0]) * 32768 == 3 * mel.HOP
    assert len(heard) == 4 * mel.HOP
