"""Timed speech: labels where the sound is, and every batch reproducible."""

import numpy as np
import pytest
import torch

from vivavoce.recipes.data import voices
from vivavoce.recipes.data.labels import FRAME
from vivavoce.recipes.data.timed import _ESPEAK, TimedSpeech
from vivavoce.recipes.data.tokenizer import train_tokenizer
from vivavoce.recipes.data.voices import Voice, say_timed
from vivavoce.speech.asr.phones import CLASSES, PHONES
from vivavoce.speech.errors import BadAudio, MissingDependency

TEXTS = ["low tide", "high tide again", "the low and the high", "one", "a much longer one of many words is left out"]


@pytest.fixture
def speech() -> TimedSpeech:
    try:
        voices._espeak_files()
    except MissingDependency as e:
        pytest.skip(str(e))
    return TimedSpeech(TEXTS, train_tokenizer(TEXTS, 40), seconds=4.0, longest=6, seed=1)


def test_every_phone_of_espeak_is_one_of_the_classes() -> None:
    assert set(_ESPEAK.values()) == set(PHONES)


def test_fricatives_are_labelled_where_the_noise_is(speech: TimedSpeech) -> None:
    """High frequencies are stronger in s than in vowels, if the times are right."""
    audio, phones = say_timed("see saw see saw", Voice("espeak-ng", "en-us", 50, 50, 140, 0.5))
    edges = [start for start, _ in phones] + [len(audio)]
    change = np.abs(np.diff(audio, prepend=0.0))
    sharp: dict[str, list[float]] = {"s": [], "i:": []}
    for (start, name), stop in zip(phones, edges[1:], strict=True):
        if name in sharp:
            sharp[name].append(float(change[start:stop].mean() / np.abs(audio[start:stop]).mean()))
    assert min(sharp["s"]) > 3 * max(sharp["i:"])


def test_a_batch_reads_the_same_sentences_whenever_it_is_asked_for(speech: TimedSpeech) -> None:
    a, b, other = (speech.batch(k) for k in (3, 3, 4))
    rows = min(len(a.tokens), len(b.tokens))
    assert torch.equal(a.tokens[:rows], b.tokens[:rows])
    assert a.tokens.shape != other.tokens.shape or not torch.equal(a.tokens, other.tokens)


def test_labels_cover_each_utterance_and_no_more(speech: TimedSpeech) -> None:
    batch = speech.batch(0)
    assert batch.phones is not None
    for row, samples in zip(batch.phones, batch.samples.tolist(), strict=True):
        frames = int((row >= 0).sum()) // 2
        assert samples // FRAME + 1 <= frames <= samples // FRAME + 2
        assert int(row.max()) < CLASSES
        assert int((row > 0).sum()) > 3
    assert batch.seconds >= 4.0
    assert max(len(t.split()) for t in speech.texts) <= 6


def test_a_voice_without_times_is_refused() -> None:
    with pytest.raises(BadAudio, match="no phone times"):
        say_timed("hello", Voice("flite", "slt", 100, 50, 160, 0.5))
