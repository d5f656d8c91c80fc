"""Training the recurrent language model: it learns what can be foreseen, goes on where it was cut off, and reads no dev
sentence."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from vivavoce.recipes.data.tokenizer import train_tokenizer
from vivavoce.recipes.train.asr import neural_lm
from vivavoce.recipes.train.asr.neural_lm import Text, Training, main, read_text, train
from vivavoce.recipes.train.resume import keep
from vivavoce.speech.asr.neural_lm import NeuralLm
from vivavoce.speech.errors import BadCheckpoint

PIECES = 6
HEADER = "path\tseconds\tsample_rate\tspeaker\tsplit\ttext\tlicence\tsource\n"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural_lm, "ROWS", 4)
    monkeypatch.setattr(neural_lm, "SPAN", 12)
    monkeypatch.setattr(neural_lm, "SPANS", 5)


def cycle(start: int) -> np.ndarray:
    """Every piece tells the next, but the first."""
    return np.array([(start + i) % PIECES for i in range(10)], dtype=np.int16)


TEXT = Text((tuple(cycle(i) for i in range(PIECES)),), np.ones(1))


def training(steps: int) -> Training:
    torch.manual_seed(0)
    return Training(NeuralLm(PIECES, 8, 16), rate=0.03, steps=steps, cooldown=0.5, seed=1)


def test_it_learns_what_can_be_foreseen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(training(120), TEXT, tmp_path, [cycle(2).tolist()])
    loaded = NeuralLm.load(tmp_path / "lm.safetensors")
    found = loaded.log_probs(torch.from_numpy(cycle(1)).long()[None])[0]
    assert found[1:].min() > np.log(0.9)  # foretold
    assert found[0] < np.log(0.5)  # a sentence may begin with any
    assert "dev transcripts: perplexity 1." in capsys.readouterr().out


def test_a_run_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, first, second = training(20), training(20), training(20)
    train(whole, TEXT, tmp_path / "whole", [])
    block = torch.from_numpy(TEXT.block(0, 1, PIECES)).T
    memory = first.model.start(4)
    for i in range(5):
        _, memory = first.update(block[i * 12 : (i + 1) * 12 + 1], memory)
    (tmp_path / "cut").mkdir()
    keep(first.state(), tmp_path / "cut" / "last.pt")
    train(second, TEXT, tmp_path / "cut", [])
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_damaged_or_of_other_sizes_is_refused(tmp_path: Path) -> None:
    train(training(2), TEXT, tmp_path, [])
    other = Training(NeuralLm(PIECES, 8, 24), rate=0.03, steps=4, cooldown=0.5, seed=1)
    with pytest.raises(BadCheckpoint, match=r"last\.pt"):
        train(other, TEXT, tmp_path, [])
    (tmp_path / "last.pt").write_bytes(b"no checkpoint")
    with pytest.raises(BadCheckpoint, match=r"last\.pt"):
        train(training(2), TEXT, tmp_path, [])


def test_streams_are_sentences_with_marks_where_most_begin() -> None:
    block = TEXT.block(3, 0, PIECES)
    assert block.shape == (4, 12 * 5 + 1)
    assert np.array_equal(block, TEXT.block(3, 0, PIECES))
    assert not np.array_equal(block, TEXT.block(4, 0, PIECES))
    joined = block.flatten()
    marks = np.flatnonzero(joined == PIECES)
    assert 0.4 < len(marks) * 10 / len(joined) < 0.9
    assert all(step == 1 for m in marks[:-1] for step in np.diff(joined[m + 1 : m + 11]) % PIECES)


def corpora(folder: Path) -> tuple[Path, Path]:
    text, speech = folder / "text", folder / "speech" / "people"
    text.mkdir()
    speech.mkdir(parents=True)
    lines = ["the cat sat on the mat today", "a dog ran over the green hill", "we saw one bird in the old tree"]
    with lzma.open(text / "novels_made.txt.xz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    row = "{}\t1\t16000\ta\t{}\t{}\tCC0\tmade\n"
    (speech / "manifest.tsv").write_text(HEADER + row.format("a.wav", "dev", "the dog ran over the green hill again")
                                         + row.format("b.wav", "train", "a bird may sing") )
    return text, folder / "speech"


def test_no_dev_sentence_is_read_and_transcripts_of_people_are(tmp_path: Path) -> None:
    text, speech = corpora(tmp_path)
    tokenizer = train_tokenizer(["the cat sat on the mat", "a dog ran over a green hill and one bird may sing"], 40)
    found = read_text(text, speech, tokenizer, None, 0)
    said = {tokenizer.decode(s.tolist()).strip() for corpus in found.corpora for s in corpus}
    assert said == {"the cat sat on the mat today", "we saw one bird in the old tree", "a bird may sing"}
    assert found.shares.sum() == pytest.approx(1)


def test_the_command_writes_a_model_and_names_a_bad_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, speech = corpora(tmp_path)
    tokenizer = tmp_path / "tokenizer.json"
    train_tokenizer(["the cat sat on the mat", "a dog ran over a green hill"], 40).save(str(tokenizer))
    base = ["--text-dir", str(text), "--speech-dir", str(speech), "--out", str(tmp_path / "out"), "--tokenizer"]
    assert main([*base, str(tokenizer), "--steps", "3", "--width", "8", "--hidden", "16"]) == 0
    assert NeuralLm.load(tmp_path / "out" / "lm.safetensors").hidden == 16
    assert main([*base, str(tmp_path / "none.json")]) == 1
    assert "none.json: not a tokenizer" in capsys.readouterr().err
