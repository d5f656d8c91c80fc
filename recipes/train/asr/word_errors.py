"""Expected word errors: what the beam would get wrong, as a loss (Shannon 2017; Prabhavalkar et al., arXiv 1712.01818).

Encoder frames and transcripts come from the training loop. The beam that users get, with its language model and words
weighed by how they are said, lists what it would choose between; the loss takes probability from what has more errors
than the rest and gives it to what has fewer. Likelihood alone also rewards what the beam gets right anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from tokenizers import Tokenizer
from torch import Tensor

from vivavoce.speech.asr.ctc_beam import CtcBeam
from vivavoce.speech.asr.lm import LanguageModel, LmScorer
from vivavoce.speech.asr.model import AsrModel
from vivavoce.speech.asr.ngram import NGram
from vivavoce.speech.asr.recognizer import decoder_of
from vivavoce.speech.asr.words import Vocabulary, tokens_of
from vivavoce.speech.errors import BadConfig
from vivavoce.streaming.buffers import count_mask

TAIL = 64  # pieces that may stay open: what the beam has settled, the list has no choices in


@dataclass(frozen=True)
class WordErrorsConfig:
    """lm: what the beam decodes with, from the data folder: an n-gram that has not read the training transcripts
    (`vivavoce data ngram --unheard`), or it would know them by heart. hypotheses: how many the beam lists. weight: of
    an expected word error a token beside the other losses."""

    lm: str
    hypotheses: int = 8
    weight: float = 30.0

    def __post_init__(self) -> None:
        if self.hypotheses < 2:
            raise BadConfig(f"word errors need hypotheses to choose between, at least 2; {self.hypotheses} given")


class WordErrors:
    """The loss; `model` is the one in training. Raises BadConfig or BadCheckpoint for an n-gram that does not fit."""

    def __init__(self, config: WordErrorsConfig, model: AsrModel, tokenizer: Tokenizer, root: Path) -> None:
        pieces = [tokenizer.id_to_token(i) or "" for i in range(model.config.pieces)]
        if not (root / config.lm).is_file():
            raise BadConfig(f"{root / config.lm}: no n-gram there; `vivavoce data ngram --unheard` makes it")
        lm = LanguageModel(NGram.load(root / config.lm))
        if lm.pieces != len(pieces):
            raise BadConfig(f"{root / config.lm} knows {lm.pieces} pieces, the model {len(pieces)}; one tokenizer for "
                            "both")
        device = next(model.parameters()).device
        beam = decoder_of(model, "beam", pieces, [LmScorer(lm.to(device))], tail=TAIL)
        assert isinstance(beam, CtcBeam)
        self.beam, self.vocabulary, self.hypotheses = beam, Vocabulary(pieces), config.hypotheses

    def loss(self, x: Tensor, count: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        """Expected word errors a token of the transcripts, 0 dimensions; tokens are counted as in `CtcHead.loss`.

        x: (B, T, width) encoder frames, count: (B,) of them; tokens: (B, U), token_lengths: (B,).
        """
        rows, found, errors, score = self._listed(x.detach(), count, tokens, token_lengths)
        log_probs = self.beam.head(x)
        share = _softmax_by(rows, score, len(x))
        expected = errors.new_zeros(len(x)).index_add_(0, rows, share * errors)
        # d expected / d score of one, which is d its log-probability; that of the frames' labels is how often the ways
        # to say it pass through them
        pull = share * (errors - expected[rows])
        passed = self._passed(log_probs.detach()[rows], count[rows], found)
        moved = torch.zeros_like(log_probs).index_add_(0, rows, pull[:, None, None] * passed)
        surrogate = (moved * log_probs).sum()
        value = surrogate - surrogate.detach() + expected.sum()
        return value / torch.maximum(token_lengths.sum(), count.sum() / 8)

    @torch.no_grad()
    def _listed(
        self, x: Tensor, count: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> tuple[Tensor, list[list[int]], Tensor, Tensor]:
        """All hypotheses of a batch: (n,) whose, their tokens, (n,) their word errors, (n,) their scores in nats."""
        state = self.beam.init_state(len(x), x.device)
        emissions, emitted = self.beam.step(x, state, count, torch.ones_like(count, dtype=torch.bool))
        rows, found, errors, score = [], [], [], []
        for k, length in enumerate(token_lengths.tolist()):
            said = self.vocabulary.text(tokens[k, :length].tolist()).split()
            settled = [token.token for token in tokens_of(emissions, emitted, k)][: int(state.emitted[k])]
            for hypothesis in self.beam.nbest(state, k, self.hypotheses):
                whole = [*settled, *(token.token for token in hypothesis.tokens)]
                rows.append(k)
                found.append(whole)
                errors.append(float(Levenshtein.distance(said, self.vocabulary.text(whole).split())))
                score.append(hypothesis.score)
        return (torch.tensor(rows, device=x.device), found, torch.tensor(errors, device=x.device),
                torch.tensor(score, device=x.device))

    @torch.enable_grad()
    def _passed(self, log_probs: Tensor, count: Tensor, found: list[list[int]]) -> Tensor:
        """How often the ways to say each hypothesis pass through each label, (n, T, labels), as the beam weighs them:
        the blank costs its penalty. log_probs: (n, T, labels)."""
        weighed = log_probs.clone()
        weighed[..., self.beam.blank] -= self.beam.blank_penalty
        weighed.requires_grad_()
        lengths = torch.tensor([len(one) for one in found], device=log_probs.device)
        targets = torch.tensor([token for one in found for token in one], dtype=torch.int64, device=log_probs.device)
        nll = F.ctc_loss(weighed.transpose(0, 1), targets, count, lengths, self.beam.blank, reduction="sum",
                         zero_infinity=True)
        (gradient,) = torch.autograd.grad(nll, weighed)
        # torch's gradient takes its input for normalised: it is exp(input) less what passes
        inside = count_mask(count, weighed.shape[1])
        return torch.where(inside[..., None], weighed.detach().exp() - gradient, 0.0)


def _softmax_by(rows: Tensor, score: Tensor, groups: int) -> Tensor:
    """Softmax of score (n,) among those of one row each."""
    best = score.new_full((groups,), float("-inf")).scatter_reduce_(0, rows, score, "amax")
    weight = (score - best[rows]).exp()
    return weight / weight.new_zeros(groups).index_add_(0, rows, weight)[rows]
