"""What to train on: transcribed people, noise with empty text at its share, rooms and noises apart."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vivavoce.recipes.data import manifest, sources
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.speech.text import normalize


def _corpus(root: Path, name: str, rows: list[tuple[str, str, str, str, float]]) -> None:
    """(file, speaker, split, text, seconds), written with decaying noise as their sound."""
    (root / name).mkdir()
    rng = np.random.default_rng(0)
    made = []
    for file, speaker, split, text, seconds in rows:
        audio = rng.normal(0, 0.1, int(seconds * 16000)) * np.linspace(1, 0, int(seconds * 16000))
        audio[400] = 0.9
        soundfile.write(root / name / file, audio, 16000)
        made.append(Utterance(root / name / file, seconds, 16000, speaker, split, text))
    manifest.write(root / name / "manifest.tsv", made)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    _corpus(tmp_path, "people", [("a.wav", "ann", "train", "Press 1 now", 2.0), ("b.wav", "ann", "train", "", 2.0),
                                 ("c.wav", "ann", "train", "!", 2.0), ("d.wav", "bob", "dev", "turn it off", 2.0),
                                 ("e.wav", "ann", "train", "Turn it off!", 2.0)])  # fmt: skip
    _corpus(tmp_path, "noise", [("rain.wav", "-", "train", "", 3.0), ("rir_real.wav", "-", "train", "", 0.1)])
    return tmp_path


def test_people_with_transcripts_only_and_no_dev_sentence(speech: Path) -> None:
    kept, dropped = sources.human(speech)
    assert [u.path.name for u in kept] == ["a.wav"]
    assert dropped.utterances == 1
    assert dropped.hours == pytest.approx(2 / 3600)


def test_noises_and_room_responses_are_told_apart(speech: Path) -> None:
    assert [u.path.name for u in sources.noises(speech)] == ["rain.wav"]
    assert [len(n) for n in sources.noise_pool(speech)] == [48000]
    (room,) = sources.recorded_rooms(speech)
    assert len(room) == 1600 - 400  # from the direct sound on
    assert room[0] == np.abs(room).max() == 1.0
    assert len(sources.room_pool(speech, count=3)) == 4


def test_noise_kept_for_measuring_is_no_training_material(speech: Path) -> None:
    rows = [(f"{i}.wav", "-", "train", "", 1.0) for i in range(12)]
    _corpus(speech, "more", rows)
    kept = {name for name, *_ in rows if manifest.kept_for_dev(name)}
    assert kept
    heard = {u.path.name for u in sources.noises(speech)} | {u.path.name for u in sources.gather(speech).utterances}
    assert not kept & heard
    assert len(sources.noise_pool(speech)) == 1 + 12 - len(kept)


def test_noise_has_empty_text_and_its_share_and_repeats_follow_the_corpus(speech: Path, tmp_path: Path) -> None:
    _corpus(speech, "synth", [("s.wav", "flite/slt", "train", "hello there", 2.0)])
    got = sources.gather(speech, repeats={"people": 3.0, "synth": 1.5}, noise_share=0.1)
    weights = {u.path.name: w for u, w in zip(got.utterances, got.weights, strict=True)}
    assert weights == pytest.approx({"a.wav": 3.0, "s.wav": 1.5, "rain.wav": 0.45})
    made = sources.gather(speech, [speech / "synth"], {"synthetic": 2.0}, 0.0)
    assert [w for u, w in zip(made.utterances, made.weights, strict=True) if u.path.name == "s.wav"] == [1.0, 2.0]


def test_recordings_in_folders_of_their_own_are_their_corpuss(speech: Path) -> None:
    (speech / "people" / "wavs").mkdir()
    (speech / "people" / "a.wav").rename(speech / "people" / "wavs" / "a.wav")
    rows = (speech / "people" / "manifest.tsv").read_text().replace("\na.wav", "\nwavs/a.wav")
    (speech / "people" / "manifest.tsv").write_text(rows)
    got = sources.gather(speech, repeats={"people": 3.0}, noise_share=0.0)
    assert {u.corpus for u in got.utterances} == {"people", "noise"}
    assert got.weights[0] == 3.0


def test_made_speech_of_a_dev_sentence_is_left_out(speech: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    _corpus(tmp_path / "made", "synth", [("s.wav", "flite/slt", "train", "turn it off", 2.0),
                                         ("t.wav", "flite/slt", "train", "turn it on", 2.0)])  # fmt: skip
    got = sources.gather(speech, [tmp_path / "made" / "synth"])
    assert {u.path.name for u in got.utterances} == {"a.wav", "t.wav", "rain.wav"}


def test_the_projects_own_data_trains_on_no_dev_sentence() -> None:
    root = os.environ.get("VIVAVOCE_DATA")
    if not root:
        pytest.skip("VIVAVOCE_DATA does not name a folder that holds speech/ and text/")
    dev = DevSentences.from_manifests(Path(root) / "speech")
    got = sources.gather(Path(root) / "speech")
    assert len(got.utterances) > 1000
    assert not any(dev.overlaps(normalize(u.text)) for u in got.utterances)
