"""Word and character error rates of a model during training: batches of whole utterances, greedy, no gate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from vivavoce.speech.asr.model import AsrModel
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import Score, score, total


def error_rates(model: AsrModel, tokenizer: Tokenizer, utterances: Sequence[tuple[Tensor, str]], *, lookahead: int,
                slots: int = 16) -> Score:
    """Transcribe (pcm (n,) at 16 kHz, reference text) pairs and score them all together."""
    recognizer = Recognizer(model, tokenizer, slots=slots, gate=False)
    order = sorted(range(len(utterances)), key=lambda i: len(utterances[i][0]))
    with torch.no_grad():
        heard = recognizer.transcribe_streams([[utterances[i][0]] for i in order], lookahead=lookahead)
        return total(score(utterances[order[i]][1], transcript.text) for i, transcript in heard)
