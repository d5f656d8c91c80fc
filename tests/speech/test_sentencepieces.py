"""A sentencepiece model read as a tokenizer has the same pieces and splits text the same way."""

from __future__ import annotations

import io

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.sentencepieces import tokenizer_from_sentencepiece

SENTENCES = [
    "the cat sat on the mat and looked at the dog",
    "a quick brown fox jumps over the lazy dog again and again",
    "she sells sea shells on the sea shore",
    "how much wood would a woodchuck chuck",
]


def sentencepiece(kind: str, lower: bool, bytes_too: bool) -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=320 if bytes_too else 64,
        model_type=kind,
        hard_vocab_limit=False,
        byte_fallback=bytes_too,
        normalization_rule_name="nmt_nfkc_cf" if lower else "nmt_nfkc",
        minloglevel=2,
    )
    return model.getvalue()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(("lower", "bytes_too"), [(False, False), (True, False), (False, True)])
def test_pieces_and_segmentation_are_those_of_sentencepiece(kind: str, lower: bool, bytes_too: bool) -> None:
    model = sentencepiece(kind, lower, bytes_too)
    theirs = SentencePieceProcessor()
    theirs.LoadFromSerializedProto(model)
    ours = tokenizer_from_sentencepiece(model, "a test")
    n = theirs.get_piece_size()
    assert ours.get_vocab_size() == n
    assert [ours.id_to_token(i) for i in range(n)] == [theirs.id_to_piece(i) for i in range(n)]
    for text in (*SENTENCES, "  two   spaces ", "unknown: zażółć x", "ﬁsh and The Chips", "woodshed chatter", "a", ""):
        assert ours.encode(text).ids == theirs.encode(text), text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_decoding_undoes_encoding(kind: str) -> None:
    ours = tokenizer_from_sentencepiece(sentencepiece(kind, False, True), "a test")
    for text in (*SENTENCES, "zażółć"):
        assert ours.decode(ours.encode(text).ids) == text


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(BadCheckpoint, match="here: its tokenizer is no sentencepiece model"):
        tokenizer_from_sentencepiece(b"junk", "here")
