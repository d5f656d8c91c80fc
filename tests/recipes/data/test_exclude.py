"""No dev sentence in training: six words in a row, or a short transcript whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.recipes.data import tokenizer
from vivavoce.recipes.data.exclude import DevSentences, without_dev
from vivavoce.recipes.data.manifest import Utterance, load, load_all, write
from vivavoce.recipes.train.asr import ngram
from vivavoce.speech.text import normalize

DEV = ["The quick brown fox jumps over the lazy dog.", "TURN IT OFF", "It was 1805, and Mr. Fox jumped"]


def _utterance(text: str, split: str = "train", seconds: float = 3600.0) -> Utterance:
    return Utterance(Path(f"{abs(hash(text))}.wav"), seconds, 16000, "x", split, text)


def test_six_words_in_a_row_are_too_many_and_five_are_not() -> None:
    dev = DevSentences.from_texts(DEV)
    assert dev.overlaps("and then brown fox jumps over the lazy cat")
    assert not dev.overlaps("a quick brown fox jumps over a lazy dog")
    assert not dev.overlaps("fox jumps over the lazy cat")


def test_a_short_sentence_is_dropped_only_when_it_is_a_dev_transcript_whole() -> None:
    dev = DevSentences.from_texts(DEV)
    assert dev.overlaps("turn it off")
    assert not dev.overlaps("please turn it off")
    assert not dev.overlaps("quick brown fox")
    assert not dev.overlaps("")


def test_both_sides_are_compared_as_spoken() -> None:
    dev = DevSentences.from_texts(DEV)
    kept, dropped = without_dev([_utterance("Turn it off!"), _utterance("it was eighteen oh five, and mister Fox"),
                                 _utterance("Something else")], dev)  # fmt: skip
    assert [u.text for u in kept] == ["Something else"]
    assert (dropped.utterances, dropped.hours, dropped.of_hours) == (2, 2.0, 3.0)
    assert "dropped 2 of 3 utterances (2.00 of 3.00 h)" in str(dropped)


def test_only_dev_rows_of_the_manifests_count(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    rows = [_utterance("yes please", "dev"), _utterance("no thanks", "train")]
    write(tmp_path / "corpus" / "manifest.tsv", rows)
    dev = DevSentences.from_manifests(tmp_path)
    assert dev.overlaps("yes please")
    assert not dev.overlaps("no thanks")


WORDS = st.lists(st.sampled_from(list("abc")), max_size=12)


@given(WORDS, WORDS)
def test_overlap_is_exactly_a_shared_run_of_six_or_the_short_whole(dev: list[str], train: list[str]) -> None:
    long = [train[i : i + 6] for i in range(len(train) - 5)]
    shared = any(dev[i : i + 6] in long for i in range(len(dev) - 5))
    whole = 0 < len(train) < 6 and dev == train
    assert DevSentences.from_texts([" ".join(dev)]).overlaps(" ".join(train)) == (shared or whole)


def test_what_the_projects_own_data_becomes_shares_no_six_words_with_dev() -> None:
    """Synthetic speech, the language model's sentences and the tokenizer's, counted here in another way."""
    if not (data := os.environ.get("VIVAVOCE_DATA")):
        pytest.skip("VIVAVOCE_DATA does not name a folder that holds speech/ and text/")
    speech, text, synth = (Path(data) / name for name in ("speech", "text", "synth"))
    dev = [normalize(u.text).split() for u in load_all(speech, "dev") if u.text]
    runs = {tuple(words[i : i + 6]) for words in dev for i in range(len(words) - 5)}
    short = {tuple(words) for words in dev if len(words) < 6}
    made = [normalize(u.text) for u in load(synth, "train")] if synth.exists() else []
    drawn = [*ngram.training_sentences(text, speech, 20_000, 5_000, 0),
             *tokenizer.training_sentences(text, speech, 5_000, 0)]  # fmt: skip
    assert len(drawn) > 20_000
    for sentence in (*made, *drawn):
        words = sentence.split()
        assert tuple(words) not in short
        assert not any(tuple(words[i : i + 6]) in runs for i in range(len(words) - 5)), sentence
