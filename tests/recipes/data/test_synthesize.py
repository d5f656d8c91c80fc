"""The synthesis command: hours made, dev sentences absent, resumed and repeated bit for bit."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest
import soundfile

from vivavoce.recipes.data import manifest, synthesize
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.recipes.data.manifest import Utterance

LINES = [f"Bus number {i} leaves at {i % 12 + 1}:30 from gate {i % 7}." for i in range(30)]
DEV = "bus number three leaves at four thirty from gate three"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("flite") is None or shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng and flite are not installed (Debian: apt install espeak-ng flite)")
    root = tmp_path_factory.mktemp("data")
    (root / "text").mkdir()
    with lzma.open(root / "text" / "snips_bus.txt.xz", "wt") as f:
        f.write("\n".join(LINES))
    (root / "speech" / "corpus").mkdir(parents=True)
    row = Utterance(root / "speech" / "corpus" / "a.wav", 1.0, 16000, "x", "dev", DEV)
    manifest.write(root / "speech" / "corpus" / "manifest.tsv", [row])
    return root


def _make(root: Path, out: str, *more: str, shard: int = 4) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesize, "SHARD", shard)
        sources = ["--text-dir", str(root / "text"), "--speech-dir", str(root / "speech")]
        return synthesize.main([*sources, "--out", str(root / out), "--hours", "0.005", *more])


@pytest.fixture(scope="module")
def made(folders: Path) -> Path:
    assert _make(folders, "out") == 0
    return folders / "out"


def _audio(folder: Path) -> list[bytes]:
    return [soundfile.read(u.path, dtype="int16")[0].tobytes() for u in manifest.load(folder)]


def test_the_manifest_lists_playable_audio_of_the_hours_asked(made: Path) -> None:
    rows = manifest.load(made, "train")
    assert sum(u.seconds for u in rows) >= 0.005 * 3600
    for u in rows:
        info = soundfile.info(u.path)
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.frames / 16000 == pytest.approx(u.seconds, abs=0.001)
        assert u.speaker.split("/")[0] in ("espeak-ng", "flite")
        assert u.source == "synthetic: snips_bus"


def test_no_sentence_of_the_output_is_a_dev_sentence(folders: Path, made: Path) -> None:
    dev = DevSentences.from_manifests(folders / "speech")
    assert dev.overlaps(DEV)
    assert not any(dev.overlaps(u.text) for u in manifest.load(made))


def test_a_stopped_run_goes_on_and_ends_as_an_unbroken_one(folders: Path, made: Path) -> None:
    before = _audio(made)
    keep, lost = sorted((made / "shards").iterdir())[0], sorted((made / "shards").iterdir())[-1]
    when = (keep / "manifest.tsv").stat().st_mtime_ns
    (lost / "manifest.tsv").unlink()  # as a kill in the middle of the shard leaves it
    (made / "manifest.tsv").unlink()
    assert _make(folders, "out") == 0
    assert _audio(made) == before
    assert (keep / "manifest.tsv").stat().st_mtime_ns == when


def test_two_processes_make_what_one_makes(folders: Path, made: Path) -> None:
    assert _make(folders, "two", "--jobs", "2") == 0
    assert _audio(folders / "two") == _audio(made)


def test_other_settings_never_mix_into_a_folder(folders: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _make(folders, "out", "--seed", "9") == 1
    assert "give an empty folder" in capsys.readouterr().err


def test_a_bad_text_folder_fails_with_its_name(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesize.main(["--text-dir", str(folders), "--out", str(folders / "x"), "--hours", "1"]) == 1
    assert f"{folders}: none of the text corpora" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        synthesize.main(["--hours", "many"])
    assert stopped.value.code == 2
