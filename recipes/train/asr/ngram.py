"""Estimates the n-gram model of the beam search: modified Kneser-Ney over subword pieces, pruned to a size on disk.

Sentences come from the text corpora and the human training transcripts, without any that dev transcripts share; the
result is one `ngram.safetensors`, to lie beside a recogniser with the same tokenizer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vivavoce.recipes.data import corpora, manifest
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.recipes.data.tokenizer import read_tokenizer
from vivavoce.speech.asr.neural_lm import NeuralLm
from vivavoce.speech.asr.ngram import NGram
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.text import normalize
from vivavoce.streaming.errors import VivaVoceError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# Share of the drawn sentences by the beginning of the file's name: read prose, then what people say.
SHARES: Mapping[str, float] = {
    "librispeech_train": 0.22, "novels_": 0.25, "ljspeech_norm": 0.06, "common_voice": 0.12, "tatoeba": 0.1,
    "ami_": 0.03, "icsi_": 0.02, "sgd_": 0.05, "taskmaster": 0.02, "chatterbot": 0.01, "opentrivia": 0.02,
    "snips": 0.02, "nlu_eval": 0.015, "clinc150": 0.015, "banking77": 0.01, "polyai": 0.01,
    "ha_intents_sentences": 0.005, "number_templates": 0.025,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Level:
    """Every n-gram of one order. key: packed pieces, the oldest highest, ascending; count: times seen; adjusted: the
    distinct pieces seen before it, which is what Kneser-Ney estimates lower orders from; prob: P(last | others);
    lower: the same without the oldest piece."""

    key: Ints
    count: Ints
    adjusted: Ints
    prob: Floats
    lower: Floats


def estimate(
    sentences: Iterable[Sequence[int]], pieces: int, order: int, keep: int, word_start: Sequence[bool]
) -> NGram:
    """The model of `order` that keeps `keep` n-grams of two or more pieces.

    Interpolated modified Kneser-Ney (Chen & Goodman 1999), then pruned by weighted difference (Seymore & Rosenfeld
    1996): an n-gram is worth its count times what it changes in log-probability. Entropy pruning would weigh by the
    model's own context probabilities, which Kneser-Ney distorts (Chelba et al. 2010).

    Raises:
        BadConfig: an order outside 2 and what 63 bits can pack, or no sentences.
    """
    bits = int(pieces).bit_length()
    if not 2 <= order <= 63 // bits:
        raise BadConfig(f"order={order}: with {pieces} pieces it must be 2 to {63 // bits}")
    text = _joined(sentences, pieces)
    if len(text) < 2:
        raise BadConfig("no sentences to estimate from; check the text folder")
    counted = [_count(text, n, bits, pieces) for n in range(1, order + 1)]
    levels: list[Level] = []
    for i, (key, count) in enumerate(counted):
        longer = counted[i + 1][0] if i + 1 < order else None
        adjusted = _adjusted(key, count, longer, bits * (i + 1), bits, pieces)
        levels.append(_smooth(key, count, adjusted, levels[-1] if levels else None, bits * i, bits, pieces))
    return _trie(levels, _choose(levels, keep, bits), bits, pieces, word_start)


def _joined(sentences: Iterable[Sequence[int]], pieces: int) -> Ints:
    """The sentences one after another, the mark `pieces` before each."""
    parts = [np.asarray([pieces, *s], dtype=np.int64) for s in sentences if len(s)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _count(text: Ints, n: int, bits: int, pieces: int) -> tuple[Ints, Ints]:
    """Packed n-grams, ascending, and how often each occurs; the mark of a start only as the oldest of two or more."""
    size = len(text) - n + 1
    key, inside = np.zeros(max(size, 0), dtype=np.int64), np.ones(max(size, 0), dtype=bool)
    for i in range(n):
        key = key << bits | text[i : i + size]
        if i or n == 1:
            inside &= text[i : i + size] != pieces
    found, count = np.unique(key[inside], return_counts=True)
    return found, count.astype(np.int64)


def _adjusted(key: Ints, count: Ints, longer: Ints | None, shift: int, bits: int, pieces: int) -> Ints:
    """How many pieces come before each n-gram; the count itself at the highest order and where a sentence starts."""
    if longer is None:
        return count
    before = np.zeros(len(key), dtype=np.int64)
    suffix, number = np.unique(longer & ((1 << shift) - 1), return_counts=True)
    before[np.searchsorted(key, suffix)] = number
    starts = key >> (shift - bits) == pieces
    return np.where(starts, count, before)


def _smooth(key: Ints, count: Ints, adjusted: Ints, lower: Level | None, shift: int, bits: int, pieces: int) -> Level:
    """Probabilities of one order, interpolated with those of the order below (at the lowest: with a uniform one)."""
    context, group = np.unique(key >> bits, return_inverse=True)
    discount = _discounts(adjusted)
    step = np.minimum(adjusted, 3)
    total = np.bincount(group, adjusted, len(context))
    left = np.bincount(group, discount[step], len(context)) / total
    if lower is None:
        below = np.full(len(key), 1 / pieces)
    else:
        below = lower.prob[np.searchsorted(lower.key, key & ((1 << shift) - 1))]
    prob = (adjusted - discount[step]) / total[group] + left[group] * below
    if lower is None:  # every piece has a probability, seen or not
        everything = np.full(pieces, left[0] / pieces)
        everything[key] = prob
        counts = np.zeros(pieces, dtype=np.int64)
        counts[key] = count
        key, count, adjusted, prob, below = np.arange(pieces), counts, counts, everything, everything
    return Level(key, count, adjusted, prob, below)


def _discounts(adjusted: Ints) -> Floats:
    """What n-grams seen 0, 1, 2, and 3 or more times give up; Chen & Goodman's estimate where the text allows one."""
    n1, n2, n3, n4 = (float((adjusted == i).sum()) for i in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0.0, 0.5, 0.75, 1.0])
    y = n1 / (n1 + 2 * n2)
    given = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    return np.clip(np.array(given), [0.0, 0.1, 0.1, 0.1], [0.0, 0.95, 1.95, 2.95])


def _choose(levels: list[Level], keep: int, bits: int) -> list[NDArray[np.bool_]]:
    """Which n-grams to keep: the `keep` most valuable, and whatever they are extensions of."""
    value = [level.count * (np.log(level.prob) - np.log(level.lower)) for level in levels[1:]]
    every = np.concatenate(value)
    bound = np.partition(every, len(every) - keep)[len(every) - keep] if keep < len(every) else -np.inf
    kept = [np.ones(len(levels[0].key), dtype=bool), *(v >= bound for v in value)]
    for n in range(len(levels) - 1, 1, -1):
        parents = np.unique(levels[n].key[kept[n]] >> bits)
        kept[n - 1][np.searchsorted(levels[n - 1].key, parents)] = True
    return kept


def _trie(
    levels: list[Level], kept: list[NDArray[np.bool_]], bits: int, pieces: int, word_start: Sequence[bool]
) -> NGram:
    """The kept n-grams as a model whose back-offs make every context's probabilities sum to one."""
    packed = [np.arange(pieces + 1), *(level.key[keep] for level, keep in zip(levels[1:], kept[1:], strict=True))]
    log_prob = np.concatenate([np.log(levels[0].prob), [0.0]])  # the start itself is never asked for
    key, backoff, offset = np.zeros(0, dtype=np.int64), np.zeros(0), 0
    for n in range(1, len(packed)):
        parent = offset + np.searchsorted(packed[n - 1], packed[n] >> bits)
        offset += len(packed[n - 1])
        token = packed[n] & ((1 << bits) - 1)
        prob = levels[n].prob[kept[n]]
        shorter = _model(key, log_prob, np.concatenate([backoff, np.zeros(offset - len(backoff))]), word_start, n)
        below = np.exp(_score_suffix(shorter, packed[n], n, bits))
        inside, outside = np.bincount(parent, prob, offset), np.bincount(parent, below, offset)
        rest = np.log(np.maximum(1 - inside, 1e-9)) - np.log(np.maximum(1 - outside, 1e-9))
        backoff = np.concatenate([backoff, rest[len(backoff) :]])
        key, log_prob = np.concatenate([key, parent * pieces + token]), np.concatenate([log_prob, np.log(prob)])
    backoff = np.concatenate([backoff, np.zeros(len(log_prob) - len(backoff))])
    return _model(key, log_prob, backoff, word_start, len(packed))


def _model(key: Ints, log_prob: Floats, backoff: Floats, word_start: Sequence[bool], order: int) -> NGram:
    values = (torch.from_numpy(np.append(backoff, 0.0)).float(), torch.tensor(word_start, dtype=torch.bool))
    return NGram(torch.from_numpy(key), torch.from_numpy(log_prob).float(), *values, order)


def _score_suffix(model: NGram, packed: Ints, n: int, bits: int, block: int = 100_000) -> Floats:
    """log P of each (n + 1)-gram's last piece by a model of order n, which does not see the oldest."""
    scores = [np.zeros(0)]
    for at in range(0, len(packed), block):
        keys = torch.from_numpy(packed[at : at + block])
        tokens = [keys >> bits * (n - i) & ((1 << bits) - 1) for i in range(1, n + 1)]
        if n == 1:
            scores.append(model.log_prob[tokens[0]].double().numpy())
            continue
        context = torch.full((len(keys), n - 1), -1)
        for token in tokens[:-1]:
            context = model.advance(context, token)
        scores.append(model.score(context, tokens[-1][:, None])[:, 0].double().numpy())
    return np.concatenate(scores)


def training_sentences(text_dir: Path, speech_dir: Path, count: int, limit: int, seed: int,
                       unheard: bool = False) -> list[str]:
    """About `count` sentences by the corpora's shares, none twice, and every human training transcript.

    No dev sentences. limit: how many of each corpus are read at most. unheard: nothing that a recording says at all,
    neither its transcript nor what shares six words in a row with it.
    """
    said = (u.text for split in ("dev", "train") for u in manifest.load_all(speech_dir, split))
    dev = DevSentences.from_texts(said) if unheard else DevSentences.from_manifests(speech_dir)
    found = corpora.read_all(text_dir, dev, seed=seed, limit=limit, weights=SHARES)
    rng, total = np.random.default_rng(seed), sum(share for _, share in found)
    texts = {text: None for u in manifest.load_all(speech_dir, "train") if (text := normalize(u.text))}
    chosen = [text for text in texts if not dev.overlaps(text)]
    for corpus, share in found:
        take = min(len(corpus.sentences), round(count * share / total))
        chosen += [corpus.sentences[i] for i in rng.permutation(len(corpus.sentences))[:take]]
    return chosen


def train(sentences: Sequence[str], tokenizer: Tokenizer, order: int, keep: int) -> NGram:
    """Normalised sentences as the tokenizer cuts them; see `estimate`."""
    pieces = tokenizer.get_vocab_size()
    starts = [(tokenizer.id_to_token(i) or "").startswith("▁") for i in range(pieces)]
    blocks = (sentences[at : at + 10_000] for at in range(0, len(sentences), 10_000))
    ids = (e.ids for block in blocks for e in tokenizer.encode_batch_fast(block, add_special_tokens=False))
    return estimate(ids, pieces, order, keep, starts)


@torch.no_grad()
def perplexity(model: NGram | NeuralLm, sentences: Iterable[Sequence[int]]) -> tuple[float, int]:
    """exp of the mean negative log-probability a piece, and how many pieces; ends of sentences are not counted."""
    nats, number = 0.0, 0
    for ids in sentences:
        nats -= float(model.log_probs(torch.tensor([ids], dtype=torch.int64)).double().sum())
        number += len(ids)
    return float(np.exp(nats / max(number, 1))), number


def main(argv: Sequence[str] | None = None) -> int:
    """Write the model and say how it predicts dev transcripts; exit code 0 done, 1 failed, 2 bad usage."""
    p = argparse.ArgumentParser("vivavoce data ngram", description="Estimate a language model for beam search.")
    p.add_argument("--text-dir", type=Path, required=True)
    p.add_argument("--speech-dir", type=Path, required=True)
    p.add_argument("--tokenizer", type=Path, required=True, help="the recogniser's tokenizer.json")
    p.add_argument("--out", type=Path, required=True, help="file: ngram.safetensors in the recogniser's folder")
    p.add_argument("--order", type=int, default=6, help="pieces a context and its next one have together")
    p.add_argument("--keep", type=int, default=1_550_000,
                   help="n-grams; 2.5 bytes each on disk with their contexts")
    p.add_argument("--sentences", type=int, default=900_000)
    p.add_argument("--limit", type=int, default=60_000, help="sentences read of each corpus at most")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--unheard", action="store_true",
                   help="leave out what the recordings to train on say: for [word_errors] in a recogniser's training")
    args = p.parse_args(argv)
    try:
        tokenizer = read_tokenizer(args.tokenizer)
        sentences = training_sentences(args.text_dir, args.speech_dir, args.sentences, args.limit, args.seed,
                                       args.unheard)
        model = train(sentences, tokenizer, args.order, args.keep)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        model.save(args.out)
        print(f"{args.out}: {len(model.log_prob)} n-grams, {args.out.stat().st_size} bytes, {len(sentences)} sentences")
        heard = [text for u in manifest.load_all(args.speech_dir, "dev") if (text := normalize(u.text))]
        found, number = perplexity(NGram.load(args.out), [tokenizer.encode(text).ids for text in heard])
        print(f"dev transcripts: perplexity {found:.2f} a piece over {number} pieces")
    except VivaVoceError as e:
        print(f"ngram: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
