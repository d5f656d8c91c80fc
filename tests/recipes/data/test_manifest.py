"""Manifests: what is written is read back, and a bad line is named with its cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivavoce.recipes.data.manifest import COLUMNS, Utterance, load, load_all, write
from vivavoce.speech.errors import BadManifest


def _rows(folder: Path) -> list[Utterance]:
    return [
        Utterance(folder / "a.opus", 1.5, 16000, "LJ", "train", 'He said "no', "CC0", "here"),
        Utterance(folder / "deep" / "b.opus", 2.25, 8000, "-", "dev", "", "CC0", "there"),
    ]


def test_what_is_written_is_read_back_quotes_and_folders_included(tmp_path: Path) -> None:
    write(tmp_path / "manifest.tsv", _rows(tmp_path))
    assert load(tmp_path) == load(tmp_path / "manifest.tsv") == _rows(tmp_path)
    assert [u.path.name for u in load(tmp_path, "dev")] == ["b.opus"]


def test_only_a_row_without_text_and_speaker_is_noise(tmp_path: Path) -> None:
    speech, noise = _rows(tmp_path)
    assert noise.is_noise
    assert not speech.is_noise
    assert not Utterance(tmp_path, 1, 1, "someone", "train", "").is_noise


def test_every_folder_below_the_root_is_gathered(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "manifest.tsv", _rows(tmp_path / name))
    assert [u.path.parent.name for u in load_all(tmp_path, "train")] == ["one", "two"]
    with pytest.raises(BadManifest, match="no folder in it holds"):
        load_all(tmp_path / "one")


GOOD = "a.opus\t1.0\t16000\tx\ttrain\thi\tCC0\there"


@pytest.mark.parametrize(
    ("header", "row", "says"),
    [
        ("\t".join(COLUMNS[:-1]), GOOD, r"line 1: no column source; the header needs"),
        ("\t".join(COLUMNS), GOOD.replace("1.0", "long"), r"line 3: .*'long'.*decimal"),
        ("\t".join(COLUMNS), GOOD.replace("16000", "16k"), r"line 3: .*'16k'.*whole number"),
        ("\t".join(COLUMNS), GOOD.replace("1.0", "-1"), r"line 3: seconds=-1.0"),
        ("\t".join(COLUMNS), GOOD.replace("1.0", "nan"), r"line 3: seconds=nan"),
        ("\t".join(COLUMNS), "a.opus 1.0 16000", r"line 3: fewer than 8 columns; separate them by single tabs"),
    ],
)
def test_a_bad_line_is_named_with_its_cure(tmp_path: Path, header: str, row: str, says: str) -> None:
    (tmp_path / "manifest.tsv").write_text(f"{header}\n{GOOD}\n{row}\n")
    with pytest.raises(BadManifest, match=says):
        load(tmp_path)


def test_what_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match=r"cannot be read.*give a UTF-8 TSV"):
        load(tmp_path / "missing.tsv")
    (tmp_path / "manifest.tsv").write_bytes(b"path\xff\xfe")
    with pytest.raises(BadManifest, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(BadManifest, match="a tab or a line break"):
        write(tmp_path / "manifest.tsv", [Utterance(tmp_path / "a", 1, 1, "x", "train", "two\tparts")])
