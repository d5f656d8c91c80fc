"""Words weighed by their phones: equal to Viterbi written down plainly, the same however cut, and fair about pauses."""

import math

import pytest
import torch
from streams import shuffled
from torch import Tensor

from vivavoce.speech.asr import pronunciation as module
from vivavoce.speech.asr.ctc_beam import CtcBeam
from vivavoce.speech.asr.phones import CLASS, CLASSES, LABELS_A_FRAME, PHONES, SILENCE
from vivavoce.speech.asr.pronunciation import PATIENCE, WEIGHT, WORST, Pronunciation, classes_of
from vivavoce.speech.asr.words import tokens_of
from vivavoce.speech.tts.pronounce import ways_to_say

PIECES = ["▁cat", "▁cap", "▁s", "at", "▁read", "▁-", "▁elephant"]


def head(x: Tensor) -> Tensor:
    """The frames are the logits."""
    return x.unflatten(-1, (LABELS_A_FRAME, CLASSES)).log_softmax(-1)


def frames_of(phones: str, sure: float = 4.0, seed: int = 0) -> Tensor:
    """(1, T, 2 CLASSES): two labels for each phone, `_` silence, with noise."""
    torch.manual_seed(seed)
    classes = [SILENCE if p == "_" else CLASS[p] for p in phones.split()]
    logits = torch.randn(len(classes), LABELS_A_FRAME, CLASSES)
    logits[torch.arange(len(classes)), :, classes] += sure
    return logits.flatten(1)[None]


def run(one: Pronunciation, x: Tensor, said: dict[int, int]) -> tuple[list[float], float]:
    """One prefix that says token said[t] at frame t. What every frame adds, and what the end does."""
    state, added = one.init_state(1, 1), []
    for t, label in enumerate(one.hear(x).unbind(1)):
        token, extended = torch.tensor([[said.get(t, 0)]]), torch.tensor([[t in said]])
        added.append(float(one.advance(state, label, torch.zeros(1, 1, dtype=torch.int64), token, extended, None)))
    return added, float(one.finish(state))


def viterbi(one: Pronunciation, x: Tensor, words: list[str]) -> float:
    """The best way through silence, the words' phones and silence between them, one state a label."""
    label = one.hear(x).flatten(1, 2)[0]
    best = -math.inf
    for ways in _products([classes_of(word) for word in words]):
        states = [SILENCE]
        for way in ways:
            states += [*way, SILENCE]
        score = {-1: 0.0}  # by state, before the first label
        for row in label.tolist():
            then: dict[int, float] = {}
            for i, before in score.items():
                hop = [i, i + 1] + [i + 2] * (i + 1 < len(states) and states[i + 1] == SILENCE)
                for j in hop:
                    if 0 <= j < len(states):
                        then[j] = max(then.get(j, -math.inf), before + row[states[j]])
            score = then
        best = max(best, *(score.get(i, -math.inf) for i in (len(states) - 2, len(states) - 1)))
    return best


def _products(ways: list[tuple[tuple[int, ...], ...]]) -> list[list[tuple[int, ...]]]:
    found: list[list[tuple[int, ...]]] = [[]]
    for word in ways:
        found = [[*before, way] for before in found for way in word]
    return found


@pytest.mark.parametrize("sure", [5.0, 1.0])
def test_what_is_added_sums_to_the_best_way_through_all_words(sure: float) -> None:
    one = Pronunciation(head, PIECES)
    x = frames_of("_ K AE T _ S AE AE T R EH D _ _", sure)
    added, end = run(one, x, {2: 0, 6: 2, 8: 3, 13: 4})
    assert len(classes_of("read")) == 2
    if sure > 4:  # else a word may end after the next has begun, which is too late for it
        assert sum(added) + end == pytest.approx(WEIGHT * viterbi(one, x, ["cat", "sat", "read"]), abs=1e-4)
        assert all(added[t] == 0 for t in (3, 4, 5, 7, 11, 12))  # a word is open
    else:
        assert sum(added) + end <= WEIGHT * viterbi(one, x, ["cat", "sat", "read"]) + 1e-4


def test_what_was_said_costs_less_than_what_was_not() -> None:
    one, x = Pronunciation(head, PIECES), frames_of("_ K AE T _ _")
    right, wrong = (sum(run(one, x, {2: piece})[0]) + run(one, x, {2: piece})[1] for piece in (0, 1))
    assert right > wrong + 0.5


def test_a_word_is_over_after_a_pause_and_the_pause_costs_it_nothing() -> None:
    one = Pronunciation(head, PIECES)
    pause = frames_of("K AE T" + " _" * 60, sure=8.0)
    after, never = run(one, pause, {1: 0, 62: 4})[0], run(one, pause, {})[0]
    assert all(a == 0 for a in after[2 : 2 + PATIENCE])
    assert after[2 + PATIENCE] > 0
    assert after[35:62] == pytest.approx(never[35:62], abs=1e-4)  # from then on silence is worth what it always is
    assert sum(never) < sum(after)  # who heard no word there pays once it is sure that none will be heard


def test_nothing_said_is_worth_its_silence_so_that_no_word_gains_by_being_heard_in_it() -> None:
    one, noise = Pronunciation(head, PIECES), frames_of("_ " * 60, sure=3.0)
    nothing, end = run(one, noise, {})
    assert sum(nothing) + end == pytest.approx(WEIGHT * viterbi(one, noise, []), abs=1e-3)
    for said in ({9: 0}, {9: 0, 40: 4}, {0: 2, 1: 3}):
        added, last = run(one, noise, said)
        assert sum(added) + last < sum(nothing) + end
        assert max(sum(added[:t]) - sum(nothing[:t]) for t in range(60)) < 0.5


def test_a_word_that_cannot_have_been_said_costs_no_more_than_the_worst() -> None:
    one = Pronunciation(head, PIECES)
    added, _ = run(one, frames_of("K _"), {0: 6, 1: 4})  # eight phones in four labels
    assert added[1] == pytest.approx(-WEIGHT * WORST)
    added, end = run(one, frames_of("K _ _ _", sure=9.0), {0: 5, 1: 5})  # nothing to say in this one
    assert added[1] >= 0
    assert end > -WEIGHT * WORST


def lively(slots: int, frames: int, seed: int = 0) -> Tensor:
    """Logits of seven pieces and the blank, then those of the phones."""
    torch.manual_seed(seed)
    return 2.0 * torch.randn(slots, frames, len(PIECES) + 1 + 2 * CLASSES, dtype=torch.float64)


def beam(weight: float = WEIGHT, **changes: int) -> CtcBeam:
    n = len(PIECES) + 1
    return CtcBeam(lambda x: x[..., :n].log_softmax(-1), len(PIECES), candidates=4, **{"beam": 6, "tail": 6, **changes},
                   pronunciation=Pronunciation(lambda x: head(x[..., n:]), PIECES, weight))


def test_ragged_chunks_with_a_snapshot_and_a_permutation_equal_each_alone() -> None:
    lengths, x, stage = [90, 0, 17, 60], lively(4, 90), beam()
    got, _ = shuffled(stage, x, lengths, seed=1)
    for s, n in enumerate(lengths):
        y, count = stage.step(x[s : s + 1, :n], stage.init_state(1), torch.tensor([n]), torch.tensor([True]))
        assert got[s] == tokens_of(y, count, 0)


def test_it_decides_where_the_pieces_are_as_likely() -> None:
    x = frames_of("_ K AE P _ _", sure=6.0)
    pieces = torch.full((1, 6, len(PIECES) + 1), -9.0)
    pieces[..., -1] = 0.0
    pieces[0, 2, :2] = 5.0  # cat or cap
    said = {}
    for weight in (0.0, WEIGHT):
        stage = beam(weight)
        y, count = stage.step(torch.cat([pieces, x], -1), stage.init_state(1), torch.tensor([6]), torch.tensor([True]))
        said[weight] = [t.token for t in tokens_of(y, count, 0)]
    assert said[WEIGHT] == [PIECES.index("▁cap")]


def test_words_have_all_the_ways_the_dictionary_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {tuple(PHONES[c - 1] for c in way) for way in classes_of("read")}
    assert names == {("R", "EH", "D"), ("R", "IY", "D")}
    assert classes_of("") == ()
    monkeypatch.setattr(module, "ways_to_say", lambda word: ways_to_say("a") * 2)
    assert len(classes_of.__wrapped__("twice")) == len({tuple(w) for w in classes_of("a")})
