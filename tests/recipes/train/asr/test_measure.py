"""Error rates while training are those of the recogniser itself."""

from pathlib import Path

import torch
from babble import noise, save_babbler

from vivavoce.recipes.train.asr.measure import error_rates
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.checkpoint import load


def test_what_the_model_says_scores_nothing_and_what_it_does_not_counts(tmp_path: Path) -> None:
    save_babbler(tmp_path)
    loaded = load(tmp_path)
    sounds = [torch.from_numpy(noise(seconds, seed=i)) for i, seconds in enumerate((3.0, 1.0, 2.0))]
    said = [Recognizer(loaded.model, loaded.tokenizer).transcribe(x, lookahead=6).text for x in sounds]
    assert sum(len(text.split()) for text in said) > 3
    right = error_rates(loaded.model, loaded.tokenizer, list(zip(sounds, said, strict=True)), lookahead=6)
    assert right.words.rate == 0
    assert right.words.total == sum(len(text.split()) for text in said)
    texts = [f"{said[0]} missing", *said[1:]]
    wrong = error_rates(loaded.model, loaded.tokenizer, list(zip(sounds, texts, strict=True)), lookahead=6)
    assert wrong.words.deleted == 1
