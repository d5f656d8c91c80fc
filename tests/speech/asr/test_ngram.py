"""The n-gram: its trie against plain dictionaries, its file, and its scorer in the beam."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor

from vivavoce.speech import checkpoint
from vivavoce.speech.asr.ctc_beam import CtcBeam
from vivavoce.speech.asr.model import AsrConfig, AsrModel
from vivavoce.speech.asr.ngram import NOWHERE, NGram, NGramScorer
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.words import Token, tokens_of
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.nn.encoder import EncoderConfig
from vivavoce.streaming.state import slots_tensor

PIECES, ORDER = 6, 4
Grams = dict[tuple[int, ...], tuple[float, float]]


def grams(seed: int = 0) -> Grams:
    """Made-up kept n-grams, with (log-probability, back-off) each; every context of a kept one is kept."""
    rng = random.Random(seed)
    kept: list[list[tuple[int, ...]]] = [[(w,) for w in range(PIECES + 1)]]
    for _ in range(ORDER - 1):
        kept.append([(*h, w) for h in kept[-1] for w in range(PIECES) if rng.random() < 0.4])
    inner = {g for level in kept[:-1] for g in level}
    return {g: (rng.uniform(-6, 0), rng.uniform(-2, 0.3) if g in inner else 0.0) for level in kept for g in level}


def model(of: Grams) -> NGram:
    node = {g: i for i, g in enumerate(of)}
    return NGram(
        key=torch.tensor([node[g[:-1]] * PIECES + g[-1] for g in of if len(g) > 1]),
        log_prob=torch.tensor([p for p, _ in of.values()]),
        backoff=torch.tensor([*(b for _, b in of.values()), 0.0]),
        word_start=torch.arange(PIECES) < 3,
        order=ORDER,
    )


def plain(of: Grams, context: tuple[int, ...], token: int) -> float:
    """Back-off by its definition."""
    if (*context, token) in of:
        return of[(*context, token)][0]
    return of.get(context, (0.0, 0.0))[1] + plain(of, context[1:], token)


def itself(x: Tensor) -> Tensor:
    return x


def log_probs(slots: int, frames: int) -> Tensor:
    torch.manual_seed(0)
    return (torch.randn(slots, frames, PIECES + 1, dtype=torch.float64) * 2).log_softmax(-1)


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
    torch.testing.assert_close(loaded.log_prob, ngram.log_prob, atol=6 / 255 / 2 * 1.01, rtol=0)
    torch.testing.assert_close(loaded.backoff, ngram.backoff, atol=2.3 / 255 / 2 * 1.01, rtol=0)
    loaded.save(tmp_path / "b")
    again = NGram.load(tmp_path / "b")
    torch.testing.assert_close(again.log_prob, loaded.log_prob, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.backoff, loaded.backoff, atol=1e-5, rtol=0)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    model(grams()).save(good)
    with pytest.raises(BadCheckpoint, match="bad"):
        NGram.load(bad)
    bad.write_bytes(good.read_bytes()[:-7])
    with pytest.raises(BadCheckpoint, match="bad"):
        NGram.load(bad)
    tensors = load_file(good)
    save_file({**tensors, "token": tensors["token"][:-1].clone()}, bad)
    with pytest.raises(BadCheckpoint, match="sizes"):
        NGram.load(bad)
    save_file({"other": torch.zeros(1)}, bad)
    with pytest.raises(BadCheckpoint, match="not an n-gram"):
        NGram.load(bad)


def test_the_beam_adds_the_weighted_model_a_bonus_a_word_and_the_end_of_the_last() -> None:
    of = grams()
    scorer = NGramScorer(model(of), weight=0.7, bonus=0.4)
    lp, end = log_probs(1, 3), (torch.tensor([3]), torch.tensor([True]))
    fused, alone = (CtcBeam(itself, PIECES, 300, PIECES, math.inf, scorer=s) for s in (scorer, None))
    state, bare = fused.init_state(1), alone.init_state(1)
    fused.step(lp, state, *end)
    alone.step(lp, bare, *end)
    acoustic = {tuple(t.token for t in h.tokens): h.score for h in alone.nbest(bare, 0)}
    listed = fused.nbest(state, 0)
    for hypothesis in listed:
        said = tuple(t.token for t in hypothesis.tokens)
        before = (PIECES, *said)
        language = sum(plain(of, before[max(0, i - ORDER + 2) : i + 1], w) for i, w in enumerate(said))
        bonus = 0.4 * sum(w < 3 for w in said)
        context = before[max(0, len(before) - ORDER + 1) :]
        language += math.log(sum(math.exp(plain(of, context, w)) for w in range(3)))  # the end: a word could begin
        assert hypothesis.score == pytest.approx(acoustic[said] + 0.7 * language + bonus, abs=1e-5)
    assert {len(h.tokens) for h in listed} == {0, 1, 2, 3}


def decode(stage: CtcBeam, lp: Tensor) -> list[Token]:
    y, count = stage.step(lp[None], stage.init_state(1), torch.tensor([len(lp)]), torch.tensor([True]))
    return tokens_of(y, count, 0)


def test_sessions_cut_anywhere_moved_between_slots_and_in_company_say_what_each_says_alone() -> None:
    rng, lengths = random.Random(2), [40, 0, 23, 31]
    lp = log_probs(4, 40)
    stage = CtcBeam(itself, PIECES, beam=5, tail=6, scorer=NGramScorer(model(grams())))
    state, row, at, done = stage.init_state(4), [0, 1, 2, 3], [0] * 4, [False] * 4
    got: list[list[Token]] = [[] for _ in range(4)]
    while not all(done):
        chunk, valid, final = torch.zeros(4, 6, PIECES + 1, dtype=torch.float64), [0] * 4, [False] * 4
        for s in range(4):
            n = min(rng.randint(0, 6), lengths[s] - at[s])
            chunk[row[s], :n] = lp[s, at[s] : at[s] + n]
            at[s], valid[row[s]] = at[s] + n, n
            final[row[s]] = done[s] = at[s] == lengths[s]
        y, count = stage.step(chunk, state, torch.tensor(valid), torch.tensor(final))
        for s in range(4):
            got[s] += tokens_of(y, count, row[s])
        order = rng.sample(range(4), 4)  # the session in row r moves to order[r]
        moved = stage.init_state(4)
        moved.copy_slots_(slots_tensor(*order), state, slots_tensor(0, 1, 2, 3))
        state, row = moved, [order[r] for r in row]
    for s in range(4):
        assert got[s] == decode(stage, lp[s, : lengths[s]])


def recogniser(pieces: int) -> tuple[AsrModel, Tokenizer]:
    torch.manual_seed(0)
    config = AsrConfig("tiny", EncoderConfig(width=32, layers=1, heads=2, hidden=64, channels=8), pieces)
    return AsrModel(config).eval(), Tokenizer(models.WordLevel({f"▁{i}": i for i in range(pieces)}, "▁0"))


def test_it_lies_beside_the_weights_and_the_beam_uses_it(tmp_path: Path) -> None:
    model_, tokenizer = recogniser(PIECES)
    checkpoint.save(model_, tokenizer, tmp_path / "with", ngram=model(grams()))
    checkpoint.save(model_, tokenizer, tmp_path / "without")
    checkpoint.convert(tmp_path / "with", tmp_path / "again", dtype="int8")
    loaded, bare = checkpoint.load(tmp_path / "again"), checkpoint.load(tmp_path / "without")
    assert bare.ngram is None
    assert loaded.ngram is not None
    assert torch.equal(loaded.ngram.key, model(grams()).key)
    extra = (tmp_path / "with" / checkpoint.NGRAM).stat().st_size
    assert checkpoint.info(tmp_path / "with").size == checkpoint.info(tmp_path / "without").size + extra
    fused = Recognizer(loaded.model, loaded.tokenizer, decoder="beam", ngram=loaded.ngram)
    assert isinstance(fused.decoder.scorer, NGramScorer)
    assert Recognizer(bare.model, bare.tokenizer, decoder="beam").decoder.scorer is None
    fused.transcribe(torch.randn(8000), lookahead=6)


def test_a_model_of_other_pieces_is_refused(tmp_path: Path) -> None:
    model_, tokenizer = recogniser(PIECES + 1)
    with pytest.raises(BadCheckpoint, match="knows 6 pieces, the model 7"):
        checkpoint.save(model_, tokenizer, tmp_path, ngram=model(grams()))
    checkpoint.save(model_, tokenizer, tmp_path)
    model(grams()).save(tmp_path / checkpoint.NGRAM)
    with pytest.raises(BadCheckpoint, match="knows 6 pieces, the model 7"):
        checkpoint.load(tmp_path)
