"""Expected word errors: the value is the list's own mean, the gradient that of its definition, and steps lessen it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rapidfuzz.distance import Levenshtein
from tokenizers import Tokenizer
from torch import Tensor

from vivavoce.recipes.data.tokenizer import train_tokenizer
from vivavoce.recipes.train.asr.ngram import train
from vivavoce.recipes.train.asr.word_errors import WordErrors, WordErrorsConfig
from vivavoce.speech.asr.model import AsrConfig, AsrModel
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.nn.encoder import EncoderConfig

SENTENCES = ["low high low", "high low again", "high again low high", "low low high"]
WIDTH, BATCH, FRAMES = 16, 3, 9


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES, 40)


@pytest.fixture
def word_errors(tmp_path: Path, tokenizer: Tokenizer) -> WordErrors:
    train(SENTENCES * 5, tokenizer, 3, 200).save(tmp_path / "lm.safetensors")
    torch.manual_seed(0)
    pieces = tokenizer.get_vocab_size()
    model = AsrModel(AsrConfig("toy", EncoderConfig(width=WIDTH, layers=1, heads=2, hidden=16, channels=4), pieces))
    return WordErrors(WordErrorsConfig("lm.safetensors", hypotheses=6), model, tokenizer, tmp_path)


def batch(tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames, their counts (one row is shorter), tokens, their lengths (one row says nothing)."""
    torch.manual_seed(1)
    ids = [tokenizer.encode(text).ids for text in SENTENCES[: BATCH - 1]] + [[]]
    tokens = torch.zeros(BATCH, max(map(len, ids)), dtype=torch.int64)
    for row, said in zip(tokens, ids, strict=True):
        row[: len(said)] = torch.tensor(said)
    x = 3 * torch.randn(BATCH, FRAMES, WIDTH)
    return x, torch.tensor([FRAMES, FRAMES - 2, FRAMES]), tokens, torch.tensor([len(said) for said in ids])


def said_so(log_probs: Tensor, blank: int, tokens: list[int]) -> Tensor:
    """The textbook's forward pass of CTC, log of all ways to say tokens; log_probs (T, labels), normalised or not."""
    labels = [blank, *(x for token in tokens for x in (token, blank))]
    alpha = [log_probs[0, labels[i]] if i < 2 else log_probs.new_tensor(-1e4) for i in range(len(labels))]
    for frame in log_probs[1:]:
        now = []
        for i, label in enumerate(labels):
            from_ = alpha[max(0, i - 1) : i + 1]
            if i > 1 and label not in (blank, labels[i - 2]):
                from_ = [alpha[i - 2], *from_]
            now.append(torch.logsumexp(torch.stack(from_), 0) + frame[label])
        alpha = now
    return torch.logsumexp(torch.stack(alpha[-2:]), 0)


def test_the_gradient_is_that_of_the_definition(word_errors: WordErrors, tokenizer: Tokenizer) -> None:
    """The list once made, what the beam adds to each hypothesis beside the frames is a constant."""
    x, count, tokens, lengths = batch(tokenizer)
    rows, found, errors, score = word_errors._listed(x, count, tokens, lengths)
    assert all(int((rows == k).sum()) > 1 for k in range(BATCH))

    x = x.double().requires_grad_()
    word_errors.beam.head.double()  # type: ignore[attr-defined]
    beam, log_probs = word_errors.beam, word_errors.beam.head(x)
    penalty = torch.zeros(log_probs.shape[-1]).index_fill(0, torch.tensor(beam.blank), beam.blank_penalty)
    expected = x.new_zeros(())
    for k in range(BATCH):
        mine = [i for i in range(len(rows)) if rows[i] == k]
        heard = [said_so((log_probs - penalty)[k, : count[k]], beam.blank, found[i]) for i in mine]
        beside = score[mine] - torch.stack(heard).detach()
        expected = expected + (torch.softmax(torch.stack(heard) + beside, 0) * errors[mine]).sum()
    (by_definition,) = torch.autograd.grad(expected / lengths.sum(), x)

    loss = word_errors.loss(x, count, tokens, lengths)
    assert lengths.sum() > count.sum() / 8
    torch.testing.assert_close(loss, expected / lengths.sum())
    (gradient,) = torch.autograd.grad(loss, x)
    assert float(gradient.norm()) > 0
    torch.testing.assert_close(gradient, by_definition, rtol=1e-4, atol=1e-7)


def test_errors_are_words_of_what_the_beam_would_write(word_errors: WordErrors, tokenizer: Tokenizer) -> None:
    x, count, tokens, lengths = batch(tokenizer)
    rows, found, errors, _ = word_errors._listed(x, count, tokens, lengths)
    said = [text.split() for text in SENTENCES[: BATCH - 1]] + [[]]
    wrote = [word_errors.vocabulary.text(one).split() for one in found]
    wrong = [Levenshtein.distance(said[k], words) for k, words in zip(rows.tolist(), wrote, strict=True)]
    assert errors.tolist() == wrong


def test_a_batch_of_noise_weighs_as_little_as_in_the_loss_beside_it(word_errors: WordErrors) -> None:
    x, count = 3 * torch.randn(4, 64, WIDTH), torch.full((4,), 64)
    nothing = torch.zeros(4, 0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    _, _, errors, _ = word_errors._listed(x, count, *nothing)
    assert 0 < float(word_errors.loss(x, count, *nothing).detach()) <= 4 * float(errors.max()) / 32


def test_steps_lessen_the_errors_of_the_best(word_errors: WordErrors, tokenizer: Tokenizer) -> None:
    x, count, tokens, lengths = batch(tokenizer)
    x = x.requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.3)
    values = []
    for _ in range(20):
        loss = word_errors.loss(x, count, tokens, lengths)
        values.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0]


def test_nothing_to_choose_between_and_other_pieces_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(BadConfig, match="at least 2"):
        WordErrorsConfig("lm.safetensors", hypotheses=1)
    config = AsrConfig("toy", EncoderConfig(width=WIDTH, layers=1, heads=2, hidden=16, channels=4),
                       tokenizer.get_vocab_size())
    with pytest.raises(BadConfig, match="--unheard"):
        WordErrors(WordErrorsConfig("lm.safetensors"), AsrModel(config), tokenizer, tmp_path)
    train(SENTENCES * 5, train_tokenizer(SENTENCES, 36), 3, 200).save(tmp_path / "lm.safetensors")
    with pytest.raises(BadConfig, match="one tokenizer for both"):
        WordErrors(WordErrorsConfig("lm.safetensors"), AsrModel(config), tokenizer, tmp_path)
