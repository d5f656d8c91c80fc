"""A sentencepiece model as a `tokenizers.Tokenizer`: same pieces, same ids, same segmentation.

The bytes come from a `.nemo` archive; the tokenizer goes beside the weights as `tokenizer.json`.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from .errors import BadCheckpoint, MissingDependency


def tokenizer_from_sentencepiece(model: bytes, where: str) -> Tokenizer:
    """Unigram and BPE models. Raises BadCheckpoint for bytes that are none, MissingDependency without sentencepiece."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as e:
        raise MissingDependency(f"{where}: reading its tokenizer needs sentencepiece; install vivavoce[hub]") from e
    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(model)
    except (RuntimeError, OSError) as e:
        raise BadCheckpoint(f"{where}: its tokenizer is no sentencepiece model ({e}); fetch the archive again") from e
    tokenizer = Tokenizer(_model(pieces))
    tokenizer.normalizer = _normalizer(pieces)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


def _model(sp: Any) -> models.Model:
    """BPE models score their pieces 0, -1, -2, ... in order of merging; unigram ones by log-probability."""
    n = sp.get_piece_size()
    vocabulary = [(sp.id_to_piece(i), sp.get_score(i)) for i in range(n)]
    plain = [i for i in range(n) if not (sp.is_byte(i) or sp.is_unknown(i) or sp.is_control(i))]
    has_bytes = any(sp.is_byte(i) for i in range(n))
    if all(vocabulary[i][1] == -rank for rank, i in enumerate(plain)):
        ids = {piece: i for i, (piece, _) in enumerate(vocabulary)}
        return models.BPE(
            vocab=ids,
            merges=_merges([vocabulary[i][0] for i in plain], ids),
            unk_token=sp.id_to_piece(sp.unk_id()),
            fuse_unk=True,
            byte_fallback=has_bytes,
        )
    return models.Unigram(vocabulary, unk_id=sp.unk_id(), byte_fallback=has_bytes)


def _merges(plain: list[str], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, in the order of the pieces' scores."""
    known = set(plain)
    return [
        pair
        for piece in plain
        for pair in sorted(
            ((piece[:i], piece[i:]) for i in range(1, len(piece)) if {piece[:i], piece[i:]} <= known),
            key=lambda pair: (ids[pair[0]], ids[pair[1]]),
        )
    ]


def _normalizer(sp: Any) -> normalizers.Normalizer:
    """What the model does to text first, told by what it makes of a ligature and a capital."""
    steps: list[normalizers.Normalizer] = []
    if sp.normalize("ﬁ").endswith("fi"):
        steps.append(normalizers.NFKC())
    if sp.normalize("A").endswith("a"):
        steps.append(normalizers.Lowercase())
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    return normalizers.Sequence(steps)
