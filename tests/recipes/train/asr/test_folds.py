"""Folds: nobody is on both sides, every recording is measured once, and the command trains, resumes and sums up."""

import dataclasses
import json
from pathlib import Path

import pytest
import soundfile
import torch

from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.align import Phones
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.sources import human
from vivavoce.recipes.data.tokenizer import train_tokenizer
from vivavoce.recipes.train.asr.folds import fold_of, lay_out, main, table
from vivavoce.speech.checkpoint import load
from vivavoce.speech.errors import BadConfig


def rows(speakers: int, count: int = 40) -> list[Utterance]:
    return [Utterance(Path(f"/there/{i}.wav"), 1.0, 16000, f"s{i % speakers}", "train", f"word {i}")
            for i in range(count)]


@pytest.mark.parametrize("speakers", [1, 13])
def test_folds_share_nobody_and_hold_everybody(speakers: int) -> None:
    utterances = rows(speakers)
    places = fold_of(utterances, 5)
    assert set(places) == set(range(5))
    back = fold_of(utterances[::-1], 5)
    assert back[::-1] == places
    if speakers > 1:
        assert len({(u.speaker, at) for u, at in zip(utterances, places, strict=True)}) == speakers
    else:
        assert max(map(places.count, range(5))) == 8
    with pytest.raises(BadConfig, match="give 2 to"):
        fold_of(utterances, 50)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two corpora of hum, one to cut, and a tokenizer."""
    root = tmp_path / "data"
    for corpus in ("cut", "whole"):
        folder = root / "speech" / corpus
        folder.mkdir(parents=True)
        made = []
        for i in range(12):
            soundfile.write(folder / f"{i}.wav", 0.1 * torch.sin(torch.arange(16000) * (0.1 + i / 50)).numpy(), 16000)
            split = "train" if i else "dev"
            made.append(Utterance(folder / f"{i}.wav", 1.0, 16000, "s", split, f"{corpus} {'lo' * i}"))
        manifest.write(folder / "manifest.tsv", made)
    train_tokenizer(["cut lolo", "whole lolololo"], 40).save(str(root / "tokenizer.json"))
    return root


def test_a_fold_is_dev_and_its_sentences_are_kept_from_training(data: Path, tmp_path: Path) -> None:
    measured = []
    for fold in range(3):
        root = tmp_path / f"fold{fold}"
        lay_out(data, "speech", ["cut"], 3, fold, root)
        dev = {u.path.name for u in manifest.load(root / "speech" / "cut", "dev")}
        heard, _ = human(root / "speech")
        trained = {u.path.name for u in heard if u.path.parent.name == "cut"}
        assert not dev & trained
        assert len(dev | trained) == 12
        assert [u.path.name for u in manifest.load(root / "speech" / "whole", "dev")] == ["0.wav"]
        assert all(u.path.exists() for u in heard)
        assert (root / "tokenizer.json").exists()
        measured += sorted(dev)
    assert sorted(measured) == sorted(f"{i}.wav" for i in range(12))


CONFIG = """
name = "hum"
tokenizer = "tokenizer.json"
between = 0
[encoder]
width = 16
layers = 1
heads = 2
hidden = 16
channels = 4
[optimizer]
steps = 2
warmup = 1
[data]
noise_share = 0.0
dev = ["cut", "whole"]
[data.batches]
seconds = 4.0
buckets = 2
[data.augment]
rooms = 1
"""


def test_the_command_trains_each_fold_and_does_none_again(data: Path, tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (tmp_path / "hum.toml").write_text(CONFIG)
    words = [str(tmp_path / "hum.toml"), "--data", str(data), "--out", str(tmp_path / "out"), "--corpus", "cut",
             "--folds", "2", "--device", "cpu"]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "cut-1-of-2-seed-1  cut  WER" in said
    assert "over 2 runs" in said
    before = (tmp_path / "out" / "cut-1-of-2-seed-1" / "last.pt").stat().st_mtime_ns
    assert main(words) == 0
    again = capsys.readouterr().out.splitlines()
    assert again == said.splitlines()[-len(again) :]
    assert (tmp_path / "out" / "cut-1-of-2-seed-1" / "last.pt").stat().st_mtime_ns == before


def test_a_folder_with_runs_of_other_settings_is_not_taken_for_these(data: Path, tmp_path: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hum.toml").write_text(CONFIG)
    words = [str(tmp_path / "hum.toml"), "--data", str(data), "--out", str(tmp_path / "out"), "--corpus", "cut",
             "--folds", "2", "--device", "cpu", "--before", "1"]  # fmt: skip
    assert main(words) == 0
    capsys.readouterr()
    for change in (["--set", "optimizer.rate=1e-4"], ["--minutes", "1", "--finish"]):
        assert main([*words, *change]) == 1
        assert "other settings; give another --out" in capsys.readouterr().err
    assert main([*words, "--minutes", "9"]) == 0  # where a run may stop on its way is none of its settings


def test_corpora_are_cut_at_once_and_runs_may_end_by_the_clock(data: Path, tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hum.toml").write_text(CONFIG.replace("steps = 2", "steps = 1000"))
    words = [str(tmp_path / "hum.toml"), "--data", str(data), "--out", str(tmp_path / "out"), "--corpus", "cut",
             "whole", "--folds", "2", "--device", "cpu", "--minutes", "0.00001"]  # fmt: skip
    assert main([*words, "--finish"]) == 0
    said = capsys.readouterr().out
    assert "cut+whole-1-of-2-seed-1  whole  WER" in said
    assert "whole: mean" in said
    roots = [tmp_path / "out" / f"cut+whole-{fold}-of-2-seed-1" / "data" / "speech" for fold in (1, 2)]
    dev = [u.path.name for root in roots for corpus in ("cut", "whole") for u in manifest.load(root / corpus, "dev")]
    assert sorted(dev) == sorted(2 * [f"{i}.wav" for i in range(12)])
    assert main([*words, "--seeds", "2"]) == 1  # cut short: no figure
    assert "seed-2  whole" not in capsys.readouterr().out


def test_runs_at_once_begin_from_a_training_without_the_corpora(data: Path, tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hum.toml").write_text(CONFIG.replace("steps = 2", "steps = 1000"))
    words = [str(tmp_path / "hum.toml"), "--data", str(data), "--out", str(tmp_path / "out"), "--corpus", "cut",
             "--folds", "2", "--device", "cpu", "--minutes", "0.00001", "--finish", "--before", "0.00001"]  # fmt: skip
    assert main([*words, "--jobs", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    before = tmp_path / "out" / "before-cut"
    assert not {u.path.name for u in manifest.load(before / "data" / "speech" / "cut", "train")}
    assert "in 11 utterances" in (before / "log.txt").read_text()  # those of `whole`
    begun = load(before / "export").model.state_dict()
    for fold in (1, 2):
        log = (tmp_path / "out" / f"cut-{fold}-of-2-seed-1" / "log.txt").read_text()
        assert "step 1 " in log
        assert "step 2 " not in log
    one = torch.load(tmp_path / "out" / "cut-1-of-2-seed-1" / "last.pt", weights_only=True)
    far = max(float((one["model"][name] - value).abs().max()) for name, value in begun.items())
    assert far < 0.01  # one small step from there
    assert main(words) == 0  # nothing is trained again, and the table is the same
    assert capsys.readouterr().out.splitlines() == [line for line in said if "step" not in line]


def test_a_corpus_that_is_not_there_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hum.toml").write_text(CONFIG)
    assert main([str(tmp_path / "hum.toml"), "--data", str(data), "--out", str(tmp_path / "out"), "--corpus", "cta",
                 "--device", "cpu"]) == 1  # fmt: skip
    assert "no cta there" in capsys.readouterr().err


def test_the_table_gives_mean_and_spread() -> None:
    text = table({"a": {"x": 0.1}, "b": {"x": 0.2}, "c": {}})
    assert text.splitlines()[-1] == "x: mean 15.00 %, standard deviation 7.07 over 2 runs"


def test_rows_are_as_they_were_but_for_the_split(data: Path, tmp_path: Path) -> None:
    lay_out(data, "speech", ["cut"], 0, 0, tmp_path / "same")
    for corpus in ("cut", "whole"):
        was, now = (manifest.load(root / "speech" / corpus) for root in (data, tmp_path / "same"))
        assert [dataclasses.replace(u, path=u.path.resolve()) for u in now] == [
            dataclasses.replace(u, path=u.path.resolve()) for u in was
        ]


def test_phones_of_recordings_are_found_in_a_fold_and_recordings_elsewhere_too(data: Path, tmp_path: Path) -> None:
    moved = (data / "speech" / "whole" / "3.wav").rename(tmp_path / "3.wav")
    rows = manifest.load(data / "speech" / "whole")
    manifest.write(data / "speech" / "whole" / "manifest.tsv",
                   [dataclasses.replace(u, path=moved) if u.path.name == "3.wav" else u for u in rows])  # fmt: skip
    (data / "phones.json").write_text(json.dumps({"cut/1.wav": ["cut lo", [[0, "K"]]]}))
    lay_out(data, "speech", ["cut"], 2, 0, tmp_path / "fold")
    speech = tmp_path / "fold" / "speech"
    phones = Phones(tmp_path / "fold" / "phones.json", speech)
    found = [u.path.name for u in manifest.load_all(speech) if phones.of(u)]
    assert found == ["1.wav"]
    assert all(u.path.exists() for u in manifest.load_all(speech))
    assert not any(p.is_symlink() for p in tmp_path.glob("*.wav"))
