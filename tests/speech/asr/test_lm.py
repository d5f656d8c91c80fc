"""The beam's language model: n-gram and network mixed by definition, prefix by prefix, and their files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from grams import ORDER, PIECES, Grams, grams, model, plain
from streams import shuffled
from tokenizers import Tokenizer, models
from torch import Tensor

from vivavoce.speech import checkpoint
from vivavoce.speech.asr import lm
from vivavoce.speech.asr.ctc_beam import CtcBeam
from vivavoce.speech.asr.lm import LanguageModel, LmScorer
from vivavoce.speech.asr.model import AsrConfig, AsrModel
from vivavoce.speech.asr.neural_lm import NeuralLm
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.words import Token, tokens_of
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.nn.encoder import EncoderConfig


def neural(pieces: int = PIECES) -> NeuralLm:
    """Wide random weights, so that what was said matters."""
    torch.manual_seed(3)
    made = NeuralLm(pieces, 5, 7).requires_grad_(False).eval()
    for weight in made.parameters():
        weight.mul_(3)
    return made


KNOWN = [LanguageModel(model(grams())), LanguageModel(model(grams()), neural())]


def itself(x: Tensor) -> Tensor:
    return x


def log_probs(slots: int, frames: int) -> Tensor:
    torch.manual_seed(0)
    return (torch.randn(slots, frames, PIECES + 1, dtype=torch.float64) * 2).log_softmax(-1)


def next_log_probs(known: LanguageModel, of: Grams, said: tuple[int, ...]) -> list[float]:
    """Of every piece after those said."""
    context = (PIECES, *said)[-(ORDER - 1) :]
    found = [plain(of, context, w) for w in range(PIECES)]
    if known.neural is None:
        return found
    y, _ = known.neural(torch.tensor([[PIECES, *said]]).T, known.neural.start(1))
    return [math.log(0.75 * math.exp(a) + 0.25 * math.exp(b)) for a, b in zip(found, y[-1, 0].tolist(), strict=True)]


@pytest.mark.parametrize("known", KNOWN, ids=["n-gram", "both"])
def test_the_beam_adds_the_weighted_model_a_bonus_a_word_and_the_end_of_the_last(known: LanguageModel) -> None:
    of = grams()
    scorer = LmScorer(known, weight=0.7, bonus=0.4, share=0.25)
    lp, end = log_probs(1, 3), (torch.tensor([3]), torch.tensor([True]))
    fused, alone = (CtcBeam(itself, PIECES, 300, PIECES, math.inf, scorer=s) for s in (scorer, None))
    state, bare = fused.init_state(1), alone.init_state(1)
    fused.step(lp, state, *end)
    alone.step(lp, bare, *end)
    acoustic = {tuple(t.token for t in h.tokens): h.score for h in alone.nbest(bare, 0)}
    listed = fused.nbest(state, 0)
    for hypothesis in listed:
        said = tuple(t.token for t in hypothesis.tokens)
        language = sum(next_log_probs(known, of, said[:i])[w] for i, w in enumerate(said))
        bonus = 0.4 * sum(w < 3 for w in said)
        # the end: what it costs that a word could begin
        language += math.log(sum(math.exp(p) for p in next_log_probs(known, of, said)[:3]))
        assert hypothesis.score == pytest.approx(acoustic[said] + 0.7 * language + bonus, abs=1e-5)
    assert {len(h.tokens) for h in listed} == {0, 1, 2, 3}


def decode(stage: CtcBeam, lp: Tensor) -> list[Token]:
    y, count = stage.step(lp[None], stage.init_state(1), torch.tensor([len(lp)]), torch.tensor([True]))
    return tokens_of(y, count, 0)


@pytest.mark.parametrize("known", KNOWN, ids=["n-gram", "both"])
def test_sessions_cut_anywhere_moved_between_slots_and_in_company_say_what_each_says_alone(
    known: LanguageModel,
) -> None:
    lengths, lp = [40, 0, 23, 31], log_probs(4, 40)
    stage = CtcBeam(itself, PIECES, beam=5, tail=6, scorer=LmScorer(known))
    got, _ = shuffled(stage, lp, lengths, seed=2)
    for s in range(4):
        assert got[s] == decode(stage, lp[s, : lengths[s]])


@pytest.mark.parametrize("known", KNOWN, ids=["n-gram", "both"])
def test_what_is_not_asked_for_would_not_have_come_into_the_beam(
    known: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lp = log_probs(1, 60)[0]
    asked, said = [], []
    score = LmScorer.score
    monkeypatch.setattr(LmScorer, "score", lambda self, state, slot, prefix, token: (
        asked.append(len(token)), score(self, state, slot, prefix, token))[1])
    for careful in (False, True):
        if careful:
            monkeypatch.setattr(LmScorer, "at_most", lambda self, token: torch.full_like(token, 99))
        asked.clear()
        said.append(decode(CtcBeam(itself, PIECES, beam=6, tail=6, threshold=9.0, scorer=LmScorer(known)), lp))
        said.append(sum(asked))
    assert said[0] == said[2]
    assert said[1] < 0.8 * said[3]


def recogniser(pieces: int) -> tuple[AsrModel, Tokenizer]:
    torch.manual_seed(0)
    config = AsrConfig("tiny", EncoderConfig(width=32, layers=1, heads=2, hidden=64, channels=8), pieces)
    return AsrModel(config).eval(), Tokenizer(models.WordLevel({f"▁{i}": i for i in range(pieces)}, "▁0"))


def test_both_lie_beside_the_weights_and_the_beam_uses_them(tmp_path: Path) -> None:
    recogniser_, tokenizer = recogniser(PIECES)
    checkpoint.save(recogniser_, tokenizer, tmp_path / "with", lm=LanguageModel(model(grams()), neural()))
    checkpoint.save(recogniser_, tokenizer, tmp_path / "without")
    checkpoint.convert(tmp_path / "with", tmp_path / "again", dtype="int8")
    loaded, bare = checkpoint.load(tmp_path / "again"), checkpoint.load(tmp_path / "without")
    assert bare.lm is None
    assert loaded.lm is not None
    assert torch.equal(loaded.lm.ngram.key, model(grams()).key)
    assert loaded.lm.neural is not None
    said = torch.randint(0, PIECES, (4, 9))
    torch.testing.assert_close(loaded.lm.neural.log_probs(said), neural().log_probs(said), atol=0.3, rtol=0)
    extra = sum((tmp_path / "with" / name).stat().st_size for name in (lm.NGRAM, lm.NEURAL))
    assert checkpoint.info(tmp_path / "with").size == checkpoint.info(tmp_path / "without").size + extra
    fused = Recognizer(loaded.model, loaded.tokenizer, decoder="beam", lm=loaded.lm)
    assert isinstance(fused.decoder.scorer, LmScorer)
    assert Recognizer(bare.model, bare.tokenizer, decoder="beam").decoder.scorer is None
    fused.transcribe(torch.randn(8000), lookahead=6)


def test_a_model_of_other_pieces_is_refused(tmp_path: Path) -> None:
    recogniser_, tokenizer = recogniser(PIECES + 1)
    with pytest.raises(BadCheckpoint, match="knows 6 pieces, the recogniser 7"):
        checkpoint.save(recogniser_, tokenizer, tmp_path, lm=LanguageModel(model(grams())))
    checkpoint.save(recogniser_, tokenizer, tmp_path)
    model(grams()).save(tmp_path / lm.NGRAM)
    with pytest.raises(BadCheckpoint, match="knows 6 pieces, the recogniser 7"):
        checkpoint.load(tmp_path)
    neural(PIECES + 1).save(tmp_path / lm.NEURAL)
    with pytest.raises(BadCheckpoint, match=r"lm\.safetensors: it knows 7 pieces, the n-gram 6"):
        LanguageModel.load(tmp_path)
