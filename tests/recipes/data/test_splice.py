"""Splicing: words keep their sound, their phones and their times, and what is drawn is the same for the same epoch."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from vivavoce.recipes.data.labels import Timed
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.splice import FADE, RATE, Splicer, words_of

TEXTS = ["the cat sat on a mat", "a dog ran up the hill", "we see one old tree now", "he had two red hats on"]
PHONES = {  # of every word above, as the front end says them
    "the": ["DH", "AH"], "cat": ["K", "AE", "T"], "sat": ["S", "AE", "T"], "on": ["AA", "N"], "a": ["AH"],
    "mat": ["M", "AE", "T"], "dog": ["D", "AO", "G"], "ran": ["R", "AE", "N"], "up": ["AH", "P"],
    "hill": ["HH", "IH", "L"], "we": ["W", "IY"], "see": ["S", "IY"], "one": ["W", "AH", "N"],
    "old": ["OW", "L", "D"], "tree": ["T", "R", "IY"], "now": ["N", "AW"], "he": ["HH", "IY"],
    "had": ["HH", "AE", "D"], "two": ["T", "UW"], "red": ["R", "EH", "D"], "hats": ["HH", "AE", "T", "S"],
}  # fmt: skip
STEP = 1600  # samples of a phone


def tone(word: str) -> np.ndarray:
    """Every word sounds like nothing else: a tone of its own."""
    hertz = 200 + 40 * sorted(PHONES).index(word)
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(STEP * len(PHONES[word])) / RATE)


def timed(text: str) -> Timed:
    found, at = [(0, "SIL")], STEP
    for word in text.split():
        for phone in PHONES[word]:
            found.append((at, phone))
            at += STEP
    return [*found, (at, "SIL")]


def sound(text: str) -> np.ndarray:
    parts = [np.zeros(STEP)]
    parts += [tone(word) for word in text.split()]
    return (np.concatenate([*parts, np.zeros(STEP)]) * 32768).astype(np.int16)


def utterances(speakers: str = "xxxx") -> list[Utterance]:
    return [Utterance(Path(f"corpus/{i}.wav"), len(sound(text)) / RATE, RATE, speaker, "train", text)
            for i, (text, speaker) in enumerate(zip(TEXTS, speakers, strict=True))]  # fmt: skip


def splicer(share: float = 1.0, speakers: str = "xxxx") -> Splicer:
    return Splicer(utterances(speakers), lambda i: sound(TEXTS[i]), lambda u: timed(u.text), share, seed=0)


def test_words_begin_and_end_where_their_phones_do() -> None:
    words = words_of(TEXTS[0], timed(TEXTS[0]), len(sound(TEXTS[0])))
    assert [w.text for w in words] == TEXTS[0].split()
    assert words[0].start == STEP
    assert all(a.end == b.start for a, b in pairwise(words))
    assert words[-1].end == len(sound(TEXTS[0])) - STEP
    assert [phone for w in words for _, phone in w.phones] == [p for _, p in timed(TEXTS[0]) if p != "SIL"]
    assert words_of("another text", timed(TEXTS[0]), 10**6) == []


def test_what_is_spliced_still_sounds_like_its_words() -> None:
    made = [(i, found) for i in range(4) for epoch in range(20) if (found := splicer()(i, epoch))]
    assert len(made) > 40
    for index, spliced in made:
        assert spliced.text.split() != TEXTS[index].split()
        words = words_of(spliced.text, spliced.phones, len(spliced.audio))
        assert [w.text for w in words] == spliced.text.split()
        assert [p for _, p in spliced.phones if p != "SIL"] == [p for w in spliced.text.split() for p in PHONES[w]]
        for word in words:
            heard, own = (x[FADE:-FADE] for x in (spliced.audio[word.start : word.end], tone(word.text)))
            assert np.corrcoef(heard, own)[0, 1] > 0.999  # but for the gain, which is that of its recording
        assert 0.75 * len(sound(TEXTS[index])) <= len(spliced.audio) <= 1.25 * len(sound(TEXTS[index]))
        assert np.abs(np.diff(spliced.audio)).max() < 0.15  # 0.12 where a tone is steepest: no jump at a seam


def test_the_same_epoch_draws_the_same_and_another_does_not() -> None:
    first, again, other = splicer()(0, 3), splicer()(0, 3), [splicer()(0, epoch) for epoch in range(4, 12)]
    assert first is not None
    assert again is not None
    assert first.text == again.text
    assert np.array_equal(first.audio, again.audio)
    assert len({o.text for o in other if o}) > 3


def test_a_speakers_own_words_are_taken_where_there_are_any() -> None:
    own = splicer(speakers="aabb")
    taken = {w for epoch in range(40) if (found := own(0, epoch)) for w in found.text.split()}
    assert taken - set(TEXTS[0].split()) <= set(TEXTS[1].split())
    alone = splicer(speakers="abcd")
    taken = {w for epoch in range(40) if (found := alone(0, epoch)) for w in found.text.split()}
    assert taken & set(TEXTS[2].split())


def test_corpora_do_not_mix_wherever_their_recordings_lie() -> None:
    two = [replace(u, corpus="ab"[i // 2]) for i, u in enumerate(utterances("abcd"))]
    own = Splicer(two, lambda i: sound(TEXTS[i]), lambda u: timed(u.text), 1.0, seed=0)
    taken = {w for epoch in range(40) if (found := own(0, epoch)) for w in found.text.split()}
    assert taken <= {w for text in TEXTS[:2] for w in text.split()}


def test_nothing_is_spliced_without_phones_or_beyond_the_share() -> None:
    assert all(splicer(share=0.0)(i, e) is None for i in range(4) for e in range(5))
    unknown = Splicer(utterances(), lambda i: sound(TEXTS[i]), lambda u: None, 1.0, seed=0)
    assert all(unknown(i, 0) is None for i in range(4))
