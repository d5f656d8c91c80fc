"""Estimating the n-gram: probabilities that sum to one, by the textbook where small, and no dev sentence in it."""

from __future__ import annotations

import lzma
import random
from pathlib import Path

import pytest
import torch

from vivavoce.recipes.data.tokenizer import train_tokenizer
from vivavoce.recipes.train.asr.ngram import estimate, main, perplexity, training_sentences
from vivavoce.speech.asr.ngram import NGram
from vivavoce.speech.errors import BadConfig

PIECES, ORDER = 7, 4
HEADER = "path\tseconds\tsample_rate\tspeaker\tsplit\ttext\tlicence\tsource\n"


def sentences(count: int, seed: int = 0) -> list[list[int]]:
    """Every other piece is foreseeable from the one before last."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        said = [rng.randrange(PIECES)]
        for _ in range(rng.randint(0, 11)):
            said.append((said[-1] * 3 + 1) % PIECES if rng.random() < 0.7 else rng.randrange(PIECES))
        found.append(said)
    return found


def fit(keep: int, order: int = ORDER, count: int = 2000) -> NGram:
    return estimate(sentences(count), PIECES, order, keep, [True] * PIECES)


@pytest.mark.parametrize("keep", [10**6, 300, 40, 5])
def test_probabilities_after_any_context_sum_to_one(keep: int) -> None:
    model = fit(keep, count=400)
    torch.manual_seed(0)
    context = model.start(200)
    for _ in range(6):
        total = model.score(context, torch.arange(PIECES).expand(200, -1)).exp().sum(-1)
        torch.testing.assert_close(total, torch.ones(200), atol=1e-5, rtol=0)
        context = model.advance(context, torch.randint(0, PIECES, (200,)))


def test_a_bigram_is_interpolated_kneser_ney_by_hand() -> None:
    """a b, a b, a c: too little text for the discounts' estimate, which then are 1/2, 3/4 and 1."""
    a, b, c = 0, 1, 2
    model = estimate([[a, b], [a, b], [a, c]], 4, 2, 10**6, [True] * 4)
    # pairs: start a (3 times), a b (2), a c (1). Singles count what comes before: start, a, a, so one each.
    single = dict.fromkeys((a, b, c), 0.5 / 3 + 0.5 / 4) | {3: 0.5 / 4}
    pair_b, pair_c = (2 - 0.75) / 3 + 1.25 / 3 * single[b], (1 - 0.5) / 3 + 1.25 / 3 * single[c]
    rest = 1.25 / 3
    context = model.advance(model.start(1), torch.tensor([a]))
    got = model.score(context, torch.tensor([[a, b, c, 3]]))[0].exp()
    torch.testing.assert_close(got, torch.tensor([rest * single[a], pair_b, pair_c, rest * single[3]]))
    first = model.score(model.start(1), torch.tensor([[a, b]]))[0].exp()
    torch.testing.assert_close(first, torch.tensor([2 / 3 + 1 / 3 * single[a], 1 / 3 * single[b]]))


def test_longer_contexts_foresee_more_and_pruning_costs_little_by_little() -> None:
    held_out = sentences(300, seed=1)
    by_order = [perplexity(fit(10**6, order), held_out)[0] for order in (2, 3)]
    by_keep = [perplexity(fit(keep), held_out)[0] for keep in (10**6, 40, 5)]
    assert by_keep == sorted(by_keep)
    assert by_order[0] < 4.5 < by_keep[-1]  # what is random has a perplexity of 7
    assert abs(by_order[1] - by_order[0]) < 0.1  # this text has nothing beyond pairs, and nothing is lost by asking
    assert perplexity(fit(10**6), [])[1] == 0


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(BadConfig, match="order=22"):
        fit(10, order=22)
    with pytest.raises(BadConfig, match="sentences"):
        estimate([[]], PIECES, 2, 10, [True] * PIECES)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    said = ["the cat sat on the mat today", "a dog ran over the long hill", "we will see the cat now"]
    (tmp_path / "speech" / "one").mkdir(parents=True)
    rows = [("train", "A Dog barked, again."), ("dev", "the cat sat on the mat today")]
    lines = [f"{i}.wav\t1.0\t16000\ts\t{split}\t{text}\tCC0\tx\n" for i, (split, text) in enumerate(rows)]
    (tmp_path / "speech" / "one" / "manifest.tsv").write_text(HEADER + "".join(lines))
    (tmp_path / "text").mkdir()
    with lzma.open(tmp_path / "text" / "tatoeba_en.txt.xz", "wt") as file:
        file.write("\n".join(said))
    train_tokenizer(said, 40).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_sentences_are_corpora_and_human_transcripts_without_dev(data: Path) -> None:
    found = training_sentences(data / "text", data / "speech", 10, 100, 0)
    assert sorted(found) == ["a dog barked again", "a dog ran over the long hill", "we will see the cat now"]


def test_unheard_sentences_are_none_that_a_recording_says(data: Path) -> None:
    with lzma.open(data / "text" / "tatoeba_en.txt.xz", "at") as file:
        file.write("\nA dog barked again\n")
    found = training_sentences(data / "text", data / "speech", 10, 100, 0, unheard=True)
    assert sorted(found) == ["a dog ran over the long hill", "we will see the cat now"]


def test_the_command_writes_a_model_and_says_how_good_it_is(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [f"--text-dir={data / 'text'}", f"--speech-dir={data / 'speech'}", f"--tokenizer={data / 'tokenizer.json'}"]
    out = data / "model" / "ngram.safetensors"
    assert main([*where, f"--out={out}", "--order=3", "--keep=50"]) == 0
    assert NGram.load(out).order == 3
    assert "perplexity" in capsys.readouterr().out
    assert main([*where, f"--out={out}", "--order=3", "--keep=50", "--unheard"]) == 0
    assert "2 sentences" in capsys.readouterr().out
    assert main([*where[:2], "--tokenizer=nowhere.json", f"--out={out}"]) == 1
    assert "nowhere.json" in capsys.readouterr().err
