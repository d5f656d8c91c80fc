"""Prefix beam search: exact against enumeration, equal to the textbook when pruned, and the same however it is cut."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from streams import shuffled
from torch import Tensor

from vivavoce.speech.asr.ctc import CtcGreedy
from vivavoce.speech.asr.ctc_beam import BeamState, CtcBeam
from vivavoce.speech.asr.scorer import ContextScorer
from vivavoce.speech.asr.words import Token, tokens_of


def log_probs(slots: int, frames: int, vocab: int, sharp: float = 2.0, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    logits = torch.randn(slots, frames, vocab + 1, dtype=torch.float64) * sharp
    logits[..., -1] += 1.0
    return logits.log_softmax(-1)


def itself(x: Tensor) -> Tensor:
    return x


def bigram(context: tuple[int, ...], token: int | None) -> float:
    """A made-up language model over token pairs, the start and the end among them."""
    return -0.5 - math.sin(3.0 * context[-1] + 5.0 * (9 if token is None else token)) ** 2


def enumerate_all(lp: Tensor, scorer: bool) -> dict[tuple[int, ...], tuple[float, list[int]]]:
    """Every prefix's log-probability over all alignments, and the frames its best alignment begins its tokens at."""
    blank = lp.shape[1] - 1
    mass: dict[tuple[int, ...], float] = defaultdict(lambda: -math.inf)
    best: dict[tuple[int, ...], tuple[float, list[int]]] = {}
    for path in itertools.product(range(blank + 1), repeat=len(lp)):
        starts = [t for t, c in enumerate(path) if c != blank and (t == 0 or path[t - 1] != c)]
        prefix, p = tuple(path[t] for t in starts), sum(float(lp[t, c]) for t, c in enumerate(path))
        mass[prefix] = float(torch.tensor([mass[prefix], p], dtype=torch.float64).logsumexp(0))
        best[prefix] = max(best.get(prefix, (-math.inf, [])), (p, starts))
    if scorer:
        for prefix in mass:
            said = [(-1, *prefix)[i] for i in range(len(prefix) + 1)]
            mass[prefix] += sum(bigram((c,), t) for c, t in zip(said, [*prefix, None], strict=True))
    return {prefix: (mass[prefix], best[prefix][1]) for prefix in mass}


@pytest.mark.parametrize("penalty", [0.0, 1.5])
@pytest.mark.parametrize("scorer", [False, True])
@pytest.mark.parametrize("vocab", [1, 2])
def test_a_beam_of_all_prefixes_is_exact(vocab: int, scorer: bool, penalty: float) -> None:
    lp = log_probs(2, 5, vocab)
    stage = CtcBeam(
        itself, vocab, beam=64, candidates=9, threshold=math.inf, scorer=ContextScorer(bigram, 1) if scorer else None,
        blank_penalty=penalty,
    )  # fmt: skip
    less_blank = lp - penalty * (torch.arange(vocab + 1) == vocab)
    state = stage.init_state(2)
    y, count = stage.step(lp, state, torch.tensor([5, 4]), torch.tensor([True, True]))
    for slot, frames in enumerate([5, 4]):
        expected = enumerate_all(less_blank[slot, :frames], scorer)
        listed = stage.nbest(state, slot)
        assert {tuple(t.token for t in h.tokens): h.score for h in listed} == pytest.approx(
            {prefix: score for prefix, (score, _) in expected.items()}, abs=1e-10
        )
        assert [h.score for h in listed] == sorted((h.score for h in listed), reverse=True)
        for h in listed:
            assert [t.frame for t in h.tokens] == expected[tuple(t.token for t in h.tokens)][1]
            assert [t.confidence for t in h.tokens] == pytest.approx(
                [float(lp[slot, t.frame, t.token].exp()) for t in h.tokens], rel=1e-6
            )
        assert tokens_of(y, count, slot) == list(listed[0].tokens)


def textbook(lp: Tensor, beam: int) -> tuple[int, ...]:
    """Prefix beam search over a dictionary."""
    blank = lp.shape[1] - 1
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    for p in lp.exp().tolist():
        following: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prefix, (in_blank, in_label) in beams.items():
            following[prefix][0] += (in_blank + in_label) * p[blank]
            for token in range(blank):
                again = prefix[-1:] == (token,)
                if again:
                    following[prefix][1] += in_label * p[token]
                following[(*prefix, token)][1] += (in_blank if again else in_blank + in_label) * p[token]
        kept = sorted(following.items(), key=lambda item: -sum(item[1]))[:beam]
        top = sum(kept[0][1])
        beams = {prefix: (a / top, b / top) for prefix, (a, b) in kept}
    return max(beams.items(), key=lambda item: sum(item[1]))[0]


@pytest.mark.parametrize("beam", [1, 3, 8])
def test_a_pruned_beam_equals_the_textbook(beam: int) -> None:
    lp = log_probs(2, 60, 4, sharp=1.5)
    stage = CtcBeam(itself, 4, beam=beam, candidates=4, threshold=math.inf)
    y, count = stage.step(lp, stage.init_state(2), torch.tensor([60, 41]), torch.tensor([True, True]))
    for slot, frames in enumerate([60, 41]):
        assert tuple(t.token for t in tokens_of(y, count, slot)) == textbook(lp[slot, :frames], beam)


def decode(stage: CtcBeam, lp: Tensor) -> list[Token]:
    y, count = stage.step(lp[None], stage.init_state(1), torch.tensor([len(lp)]), torch.tensor([True]))
    return tokens_of(y, count, 0)


@pytest.mark.parametrize(("tail", "scorer"), [(64, False), (64, True), (3, False), (1, True)])
def test_ragged_chunks_with_a_snapshot_and_a_permutation_equal_each_alone(tail: int, scorer: bool) -> None:
    lengths = [50, 0, 17, 33]
    lp = log_probs(4, 50, 5)
    stage = CtcBeam(itself, 5, beam=6, candidates=3, tail=tail, scorer=ContextScorer(bigram, 1) if scorer else None)
    got, state = shuffled(stage, lp, lengths, seed=1)
    for s in range(4):
        assert got[s] == decode(stage, lp[s, : lengths[s]])
        assert state.frames[s] == lengths[s]


def test_emitted_tokens_only_extend_and_the_tail_completes_them() -> None:
    lp = log_probs(1, 120, 5)
    stage = CtcBeam(itself, 5, tail=12)
    state, emitted, tails_that_changed = stage.init_state(1), [], 0
    shown: list[Token] = []
    for t in range(120):
        y, count = stage.step(lp[:, t : t + 1], state, torch.tensor([1]), torch.tensor([False]))
        emitted += tokens_of(y, count, 0)
        assert len(emitted) == state.emitted[0]
        tail = stage.tail(state, 0)
        tails_that_changed += shown != (emitted + tail)[: len(shown)]
        shown = emitted + tail
        assert [x.frame for x in shown] == sorted({x.frame for x in shown})
    assert 0 < len(emitted) < len(shown)
    assert tails_that_changed > 0  # the tail does revise itself: without that the beam would have nothing to say
    y, count = stage.step(lp[:, :0], state, torch.tensor([0]), torch.tensor([True]))
    assert emitted + tokens_of(y, count, 0) == shown
    assert stage.tail(state, 0) == []
    y, count = stage.step(lp[:, :0], state, torch.tensor([0]), torch.tensor([True]))
    assert count.tolist() == [0]


def test_state_size_and_scores_stay_sound_on_a_stream_that_never_ends() -> None:
    """As after ten hours: scores far from zero still tell prefixes apart to the last digit."""
    lp = log_probs(1, 40, 3)
    stage = CtcBeam(itself, 3, tail=4)
    fresh, old = stage.init_state(1), stage.init_state(1)
    size = old.nbytes
    for leaf in (old.mass, old.path):
        leaf.sub_(1e6)
    old.frames.add_(450_000)
    valid, final = torch.tensor([40]), torch.tensor([True])
    a, count_a = stage.step(lp, fresh, valid, final)
    b, count_b = stage.step(lp, old, valid, final)
    assert [t._replace(frame=0, end_frame=0) for t in tokens_of(a, count_a, 0)] == [
        t._replace(frame=0, end_frame=0) for t in tokens_of(b, count_b, 0)
    ]
    assert torch.equal(b.frame, a.frame + 450_000)
    assert torch.allclose(old.score + 1e6, fresh.score, atol=1e-8)
    assert old.nbytes == size


def test_a_confident_beam_agrees_with_greedy() -> None:
    lp = log_probs(2, 50, 6, sharp=12.0)
    valid, final = torch.tensor([50, 30]), torch.tensor([True, True])
    beam, greedy = CtcBeam(itself, 6), CtcGreedy(itself, 6)
    y, n = beam.step(lp, beam.init_state(2), valid, final)
    z, m = greedy.step(lp, greedy.init_state(2), valid, final)
    for slot in range(2):
        assert [t[:2] for t in tokens_of(y, n, slot)] == [t[:2] for t in tokens_of(z, m, slot)]


def test_trailing_blanks_count_the_silence_at_the_end() -> None:
    lp = (torch.eye(2)[torch.tensor([[1, 0, 1, 1]])] * 9).log_softmax(-1)
    stage = CtcBeam(itself, 1)
    state: BeamState = stage.init_state(1)
    stage.step(lp, state, torch.tensor([4]), torch.tensor([False]))
    assert state.trailing_blanks.tolist() == [2]
