"""The n-gram: its trie against plain dictionaries, and its file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from grams import ORDER, PIECES, grams, model, plain
from safetensors.torch import load_file, save_file

from vivavoce.speech.asr.ngram import NOWHERE, STEP, NGram
from vivavoce.speech.errors import BadCheckpoint


def test_every_context_scores_by_the_definition_of_back_off() -> None:
    of, rng = grams(), random.Random(1)
    ngram = model(of)
    said = [[rng.randrange(PIECES) for _ in range(12)] for _ in range(40)]
    got = ngram.log_probs(torch.tensor(said))
    for row, sentence in zip(got.tolist(), said, strict=True):
        before = (PIECES, *sentence)
        want = [plain(of, before[max(0, i - ORDER + 2) : i + 1], token) for i, token in enumerate(sentence)]
        assert row == pytest.approx(want, abs=1e-5)


def test_a_context_tells_which_of_its_suffixes_are_kept_and_forgets_the_rest() -> None:
    of = grams()
    ngram = model(of)
    context = ngram.start(1)
    assert context.tolist() == [[PIECES, NOWHERE, NOWHERE]]
    for token in (1, 4, 0, 2, 2):
        context = ngram.advance(context, torch.tensor([token]))
        assert context.shape == (1, ORDER - 1)
    nodes = list(of)
    kept = [nodes[i] if i != NOWHERE else None for i in context[0].tolist()]
    assert kept == [suffix if suffix in of else None for suffix in ((2,), (2, 2), (0, 2, 2))]


def test_a_file_gives_it_back_to_within_half_a_step_and_a_second_file_is_the_same(tmp_path: Path) -> None:
    ngram = model(grams())
    ngram.save(tmp_path / "a")
    loaded = NGram.load(tmp_path / "a")
    assert torch.equal(loaded.key, ngram.key)
    assert torch.equal(loaded.word_start, ngram.word_start)
    assert loaded.order == ORDER
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644  # others may read it
    torch.testing.assert_close(loaded.log_prob, ngram.log_prob, atol=STEP / 2 * 1.01, rtol=0)
    torch.testing.assert_close(loaded.backoff, ngram.backoff, atol=STEP / 2 * 1.01, rtol=0)
    assert (loaded.backoff[ngram.backoff == 0].abs() < 1e-5).all()  # rounding these would price every way back
    loaded.save(tmp_path / "b")
    again = NGram.load(tmp_path / "b")
    torch.testing.assert_close(again.log_prob, loaded.log_prob, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.backoff, loaded.backoff, atol=1e-5, rtol=0)


def test_a_file_holds_many_pieces_and_many_children(tmp_path: Path) -> None:
    pieces = 1000  # more than a byte says, as tokens and as a number of children
    wide = NGram(torch.arange(pieces), torch.rand(2 * pieces + 1), torch.zeros(2 * pieces + 2),
                 torch.ones(pieces, dtype=torch.bool), 2)  # fmt: skip
    wide.save(tmp_path / "wide")
    assert torch.equal(NGram.load(tmp_path / "wide").key, wide.key)


def test_a_file_may_hold_single_pieces_only(tmp_path: Path) -> None:
    flat = NGram(torch.zeros(0, dtype=torch.int64), torch.rand(7), torch.zeros(8), torch.ones(6, dtype=torch.bool), 2)
    flat.save(tmp_path / "flat")
    loaded = NGram.load(tmp_path / "flat")
    assert len(loaded.key) == 0
    assert loaded.log_probs(torch.tensor([[1, 2]])).shape == (1, 2)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    model(grams()).save(good)
    with pytest.raises(BadCheckpoint, match="bad"):
        NGram.load(bad)
    bad.write_bytes(good.read_bytes()[:-7])
    with pytest.raises(BadCheckpoint, match="bad"):
        NGram.load(bad)
    tensors = load_file(good)
    save_file({**tensors, "token": tensors["children"].clone()}, bad)
    with pytest.raises(BadCheckpoint, match="sizes"):
        NGram.load(bad)
    for cut in (tensors["token"][:-9].clone(), torch.zeros(90, dtype=torch.uint8)):
        save_file({**tensors, "token": cut}, bad)
        with pytest.raises(BadCheckpoint, match="not an n-gram"):
            NGram.load(bad)
    save_file({"other": torch.zeros(1)}, bad)
    with pytest.raises(BadCheckpoint, match="not an n-gram"):
        NGram.load(bad)
