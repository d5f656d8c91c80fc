"""Manifests: what is written is read back, and a bad line is named with its cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivavoce.recipes.data.manifest import COLUMNS, Utterance, kept_for_dev, load, load_all, write
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


def test_a_fifth_of_the_noise_is_kept_for_measuring_by_its_name_alone(tmp_path: Path) -> None:
    noises = [Utterance(tmp_path / f"1-{i}-A.wav", 5.0, 16000, "-", "train", "") for i in range(200)]
    rest = [Utterance(tmp_path / "rir_1-0-A.wav", 0.2, 16000, "-", "train", ""), _rows(tmp_path)[0]]
    write(tmp_path / "manifest.tsv", [*noises, *rest])
    dev = [u.path.name for u in load(tmp_path, "dev")]
    assert dev == [u.path.name for u in noises if kept_for_dev(u.path.name)]
    assert 25 < len(dev) < 55
    assert not set(dev) & {u.path.name for u in load(tmp_path, "train")}
    assert len(load(tmp_path)) == 202
    assert all(kept_for_dev(name.replace("-A", "-C")) for name in dev)  # another take of the same source


def test_a_manifest_that_keeps_noise_for_measuring_itself_is_believed(tmp_path: Path) -> None:
    noises = [Utterance(tmp_path / f"{i}.wav", 5.0, 16000, "-", "dev" if i == 7 else "train", "") for i in range(50)]
    write(tmp_path / "manifest.tsv", noises)
    assert [u.path.name for u in load(tmp_path, "dev")] == ["7.wav"]


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
