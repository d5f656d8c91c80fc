"""Labels from written text, spans that end with sentences, a network that learns, and F1 that counts what it says."""

import json
import lzma
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.train.asr.punctuation import UNKNOWN, f1, label, main, sentences, spans, train
from vivavoce.speech.punctuate import AFTER, BEFORE, CAPITAL, LOWER, MARKS, UPPER, Punctuator


def test_words_marks_and_cases_come_apart() -> None:
    found = label("Mr. Smith said, “Is the BBC's well-known Anna here?” He left!")
    assert found is not None
    assert " ".join(found.words) == "mister smith said is the bbc's well known anna here he left"
    assert [MARKS[m] for m in found.marks] == ["", "", ",", "", "", "", "", "", "", "?", "", "."]
    assert found.cases[:3] == (UNKNOWN, CAPITAL, LOWER)
    assert found.cases[8] == CAPITAL
    assert found.cases[10] == UNKNOWN
    upper = label("The USA won. Dr. J. Roe lost.")
    assert upper is not None
    assert upper.cases == (UNKNOWN, UPPER, LOWER, UNKNOWN, CAPITAL, CAPITAL, LOWER)
    assert [MARKS[m] for m in upper.marks] == ["", "", ".", "", "", "", "."]


@pytest.mark.parametrize("text", ["no capital.", "No end", "Room 12 is free.", "A @ b.", "Größe.", "", "“”."])
def test_what_cannot_be_labelled_is_left_out(text: str) -> None:
    assert label(text) is None


def corpus(folder: Path, lines: Sequence[str]) -> None:
    folder.mkdir()
    with lzma.open(folder / "tatoeba_en.txt.xz", "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


LINES = [f"{name} is {what}. Is {name} {what}?" for name in ("Tom", "Ann", "Bob", "Eve", "Kim", "Joe", "Sue", "Max")
         for what in ("here", "late", "ill", "tall", "old", "young", "away", "well", "sad", "glad", "free", "poor")]


def test_held_out_lines_and_dev_sentences_are_apart(tmp_path: Path) -> None:
    corpus(tmp_path / "text", LINES)
    file, dev = tmp_path / "text" / "tatoeba_en.txt.xz", DevSentences.from_texts(["tom is here"])
    trained, held = (list(sentences(file, dev, held_out)) for held_out in (False, True))
    assert len(trained) + len(held) == 2 * len(LINES) - 1
    assert held
    assert not {s.words for s in trained} & {s.words for s in held}
    assert all(s.words != ("tom", "is", "here") for s in trained + held)


def test_spans_hold_every_sentence_whole() -> None:
    found = {"x": [s for s in map(label, (part for line in LINES for part in line.split(". "))) if s]}
    buckets, labels = spans(found, np.random.default_rng(0))
    words = sum(len(s.words) for s in found["x"])
    assert (labels[..., 0] != UNKNOWN).sum() == words == (buckets[..., 0] > 0).sum()
    assert not buckets[:, :BEFORE].any()
    assert not buckets[:, -AFTER:].any()
    ends = [row[row[:, 0] != UNKNOWN][-1, 0] for row in labels if (row[:, 0] != UNKNOWN).any()]
    assert set(ends) == {3}


def test_it_learns_what_a_question_is_and_f1_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = [s for line in LINES for s in (label(line.split(". ")[0] + "."), label(line.split(". ")[1])) if s]
    before = f1(Punctuator().eval(), found)
    model = train(*spans({"x": found * 4}, np.random.default_rng(0)), epochs=12, seed=1, batch=2)
    after = f1(model, found)
    assert after["."] > 0.9 > before["."]
    assert after["?"] > 0.9 > before["?"]
    assert after["marks"] > 0.9
    assert after["capitals"] > 0.8
    spelt = label("He is twenty five.")  # which stays two words here
    assert spelt is not None
    assert f1(model, [spelt] * 5).keys() == after.keys()


def test_the_command_writes_weights_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus(tmp_path / "text", LINES * 8)
    (tmp_path / "speech" / "one").mkdir(parents=True)
    manifest.write(tmp_path / "speech" / "one" / "manifest.tsv",
                   [Utterance(tmp_path / "a", 1.0, 16000, "x", "dev", "eve is glad")])
    out = tmp_path / "out" / "model.safetensors"
    common = ["--speech-dir", str(tmp_path / "speech"), "--out", str(out)]
    assert main(["--text-dir", str(tmp_path / "text"), *common, "--words", "20000", "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said[said.index("{"):])["f1"]["all"].keys() == {",", ".", "?", "marks", "capitals"}
    assert out.exists()
    (tmp_path / "empty").mkdir()
    assert main(["--text-dir", str(tmp_path / "empty"), *common]) == 1
    assert "check --text-dir" in capsys.readouterr().err
