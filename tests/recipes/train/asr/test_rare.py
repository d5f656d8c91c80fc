"""Hot words on people's speech: which words are rare, and what of them was heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from babble import noise, save_babbler

from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.train.asr import rare
from vivavoce.recipes.train.asr.rare import Found, compare, main, measure, rare_words, unsaid
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import Errors
from vivavoce.speech.checkpoint import load


def test_rare_words_are_long_and_in_no_training_text() -> None:
    dev = ["missus lynde walked to avonlea", "the lynde farm"]
    assert rare_words(dev, ["walked the farm", "missus"]) == ["avonlea", "lynde"]


def test_decoys_are_words_that_nobody_says() -> None:
    words = ["avonlea", "green", "o'brien", "gables", "short", "the", "gables"]
    assert unsaid(words, {"avonlea"}, 9) == ["gables", "green", "short"]
    assert unsaid(words, set(), 2) == unsaid(words, set(), 2)
    assert len(unsaid(words, set(), 2)) == 2


def test_a_recording_counts_its_rare_words_and_the_errors_of_the_rest() -> None:
    found = compare(
        "missus lynde of avonlea and lynde", "missus lynde of london and gables", {"lynde", "avonlea", "gables"}
    )
    assert found == Found(said=3, right=1, made_up=1, rest=Errors(inserted=1, total=3))
    assert (found + found).said == 6


def test_what_is_expected_is_heard(tmp_path: Path) -> None:
    """The babbler's own words, said to be rare: all right, none made up."""
    save_babbler(tmp_path)
    loaded = load(tmp_path)
    recognizer = Recognizer(loaded.model, loaded.tokenizer, slots=2, decoder="beam")
    sounds = [torch.from_numpy(noise(seconds, seed=i)) for i, seconds in enumerate((2.0, 1.0, 1.5))]
    said = [recognizer.transcribe(x, lookahead=6).text for x in sounds]
    words = {word for text in said for word in text.split()}
    found = measure(recognizer, list(zip(sounds, said, strict=True)), words, lookahead=6)
    assert found.said == found.right == sum(len(text.split()) for text in said) > 3
    assert found.made_up == found.rest.total == 0


def test_the_table_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, corpus = tmp_path / "model", tmp_path / "speech" / "readers"
    save_babbler(model)
    corpus.mkdir(parents=True)
    soundfile.write(corpus / "a.wav", np.asarray(noise(1.0)), 16000)
    path = corpus / "a.wav"
    rows = [
        Utterance(path, 1.0, 16000, "s", "dev", "avonlea again"),
        Utterance(path, 1.0, 16000, "t", "train", "again"),
    ]
    manifest.write(corpus / manifest.NAME, rows)
    command = [str(tmp_path / "speech"), "--corpus", "readers", "--model", str(model)]
    assert main([*command, "--decoys", "3"]) == 0
    out = capsys.readouterr().out
    assert "| nothing | 0 of 1 |" in out
    assert "| 1 said, 3 not |" in out
    manifest.write(corpus / manifest.NAME, [rows[1], Utterance(path, 1.0, 16000, "s", "dev", "again")])
    assert main(command) == 1
    assert "choose another --corpus" in capsys.readouterr().err


def test_the_command_names_itself() -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert rare.__doc__ is not None
    assert "vivavoce.recipes.train.asr.rare" in rare.__doc__
