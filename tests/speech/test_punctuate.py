"""Written words: the same for any split into feeds, ends are ends, and the shipped network knows some English."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from vivavoce.speech.asr.transcript import Transcript
from vivavoce.speech.asr.words import Update, Word
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.punctuate import (
    AFTER,
    BEFORE,
    CAPITAL,
    LOWER,
    UPPER,
    Punctuator,
    Unwritten,
    Writer,
    features,
    write,
)


@pytest.fixture(scope="module")
def writer() -> Writer:
    """Random weights, strong enough that marks and cases of all kinds come out."""
    torch.manual_seed(0)
    model = Punctuator().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return Writer(model)


def said(text: str) -> list[Word]:
    return [Word(w, 100 * i, 100 * i + 80, 0.5) for i, w in enumerate(text.split())]


TEXT = "well i said to ann what is the matter with you today and she said nothing at all is the matter i am well " * 2


@pytest.mark.parametrize("seed", range(4))
def test_any_split_into_feeds_writes_the_same(writer: Writer, seed: int) -> None:
    words, rng = said(TEXT), random.Random(seed)
    _, whole = writer.feed(Unwritten(), words, final=True)
    state, got, left = Unwritten(), list[Word](), list(words)
    while left:
        n = rng.randint(0, 7)
        state, written = writer.feed(state, left[:n])
        left, got = left[n:], [*got, *written]
        assert len(state.before) <= BEFORE
        assert len(state.waiting) <= AFTER
    _, written = writer.feed(state, [], final=True)
    assert [*got, *written] == list(whole)
    assert len({w.word[-1] for w in whole} & set(",.?")) > 1, "the comparison needs marks"


def test_times_and_confidences_stay_and_the_end_ends_a_sentence(writer: Writer) -> None:
    transcript = writer.transcript(Transcript(tuple(said(TEXT)), 10_000))
    assert [(w.start_sample, w.stop_sample, w.confidence) for w in transcript.words] == [
        (w.start_sample, w.stop_sample, w.confidence) for w in said(TEXT)
    ]
    assert transcript.text[-1] in ".?"
    assert transcript.text[0].isupper()
    assert writer.transcript(Transcript((), 10)).words == ()
    assert writer.text("") == ""


def test_words_that_wait_stand_in_the_tail(writer: Writer) -> None:
    state, update = writer.update(Unwritten(), Update(tuple(said("red green blue white")), "fi"))
    assert len(update.stable) == 1
    assert update.tail == "green blue white fi"
    _, update = writer.update(state, Update(tuple(said("black"))), final=True)
    assert len(update.stable) == 4
    assert update.tail == ""


@pytest.mark.parametrize(("word", "mark", "case", "begins", "expected"), [
    ("i", "", LOWER, False, "I"), ("i'm", ",", LOWER, False, "I'm,"), ("it", "?", LOWER, True, "It?"),
    ("usa", ".", UPPER, False, "USA."), ("ann", "", CAPITAL, False, "Ann"), ("iron", "", LOWER, False, "iron"),
])
def test_a_word_is_written(word: str, mark: str, case: int, begins: bool, expected: str) -> None:
    assert write(word, mark, case, begins) == expected


def test_features_are_the_same_everywhere() -> None:
    assert features("anna") == (1069, 7099, 1584)
    assert features("anna") != features("hanna")


def test_weights_are_read_back_and_others_are_refused(writer: Writer, tmp_path: Path) -> None:
    writer.model.save(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 1.5e6
    again = Writer(Punctuator.load(tmp_path / "a.safetensors"))
    assert again.text("what is it").lower().startswith("what")
    (tmp_path / "b.safetensors").write_bytes(b"something else")
    with pytest.raises(BadCheckpoint, match="not a punctuation model"):
        Punctuator.load(tmp_path / "b.safetensors")


def test_the_shipped_network_writes_plain_english() -> None:
    shipped = Writer(Punctuator.load())
    assert shipped.text("what time is it") == "What time is it?"
    assert shipped.text("i went to london with john").startswith("I went to London")
    assert shipped.text("he sat down") == "He sat down."


@pytest.mark.parametrize("cuts", [(), (1,), (2, 3), tuple(range(1, 13)), (7,)])
def test_numbers_are_written_whole_however_they_were_fed(cuts: tuple[int, ...]) -> None:
    writer = Writer(Punctuator.load())
    words = said("we sold one hundred and twenty three red chairs that day and left")
    edges = [0, *cuts, len(words)]
    state, made = Unwritten(), []
    for start, stop in pairwise(edges):
        state, out = writer.feed(state, words[start:stop], final=stop == len(words))
        made += out
    assert made == list(writer.feed(Unwritten(), words, final=True)[1])
    assert any(w.word.strip(",.?") == "123" for w in made)
