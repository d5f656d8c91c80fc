"""Hot words: a phrase that is completed keeps its reward, whatever breaks off gives it back, in any spelling."""

import itertools
import random

import pytest
import torch

from vivavoce.speech.asr.ctc_beam import CtcBeam
from vivavoce.speech.asr.hotwords import HotwordScorer, SumScorer, worth
from vivavoce.speech.asr.scorer import ContextScorer
from vivavoce.speech.asr.words import Vocabulary, tokens_of
from vivavoce.speech.errors import BadConfig

PIECES = ["▁", "▁a", "▁an", "a", "n", "na", "▁k", "k", "▁b", "b"]
VOCABULARY = Vocabulary(PIECES)


def total(scorer: HotwordScorer, pieces: list[str]) -> float:
    """What a prefix of these pieces is given in all, the stream's end included."""
    state, added = scorer.init_state(1, 1), 0.0
    for piece in pieces:
        token = torch.tensor([[PIECES.index(piece)]])
        one = scorer.score(state, torch.tensor([0]), torch.tensor([0]), token[0])
        assert bool((scorer.at_most(token[0]) >= one).all())
        added += float(one)
        scorer.advance(state, torch.zeros(1, 1, dtype=torch.int64), token, torch.ones(1, 1, dtype=torch.bool))
    return added + float(scorer.finish(state))


@pytest.mark.parametrize("pieces", [["▁an", "na"], ["▁a", "n", "na"], ["▁", "a", "n", "n", "a"]])
def test_a_phrase_is_worth_its_letters_however_it_is_spelt(pieces: list[str]) -> None:
    assert total(HotwordScorer(["Anna"], PIECES, boost=2.0), pieces) == 2.0 * worth(5, True) == 4.0
    assert total(HotwordScorer(["Anna"], PIECES, boost=2.0), ["▁b", *pieces, "▁k"]) == 4.0


@pytest.mark.parametrize("pieces", [["▁an", "n"], ["▁an", "na", "na"], ["▁b", "an", "na"], ["▁k"], [], ["▁an", "▁an"]])
def test_what_only_begins_like_a_phrase_gains_nothing(pieces: list[str]) -> None:
    known = [p if p in PIECES else "a" for p in pieces]
    assert total(HotwordScorer(["anna", "anna b"], PIECES), known) == 0


def test_a_phrase_that_begins_a_longer_one_keeps_its_own_part() -> None:
    scorer = HotwordScorer(["an", "an anna kb"], PIECES)
    assert total(scorer, ["▁an", "▁an", "na", "▁b"]) == worth(3, True) * scorer.boost
    assert total(scorer, ["▁an", "▁an", "na", "▁k", "b"]) == worth(11, True) * scorer.boost
    assert total(scorer, ["▁an", "▁an"]) == 2 * worth(3, True) * scorer.boost  # the second may yet go on


def test_every_string_of_pieces_gains_the_letters_of_its_hot_words() -> None:
    scorer = HotwordScorer(["an", "b"], PIECES)
    assert worth(3, True) * scorer.boost == worth(2, True) * scorer.boost == 5.0
    for pieces in itertools.product(["▁a", "n", "▁b", "▁an", "b"], repeat=4):
        words = VOCABULARY.text(PIECES.index(p) for p in pieces).split()
        if not pieces[0].startswith("▁"):  # goes on with a word nobody knows the beginning of
            continue
        assert total(scorer, list(pieces)) == sum(5.0 for w in words if w in ("an", "b"))


LISTS = [("an",), ("an", "b"), ("an b", "b"), ("an b an", "b"), ("an b", "b an"), ("b", "an b", "an b anna"),
         ("anna b anna", "b an", "an"), ("kb", "anna kb an", "kb an b", "b"), ("b b b b", "b b")]  # fmt: skip


def times(phrase: str, text: str) -> int:
    return sum(f" {text} "[i:].startswith(f" {phrase} ") for i in range(len(text)))


def value(phrase: str, phrases: tuple[str, ...]) -> int:
    """What a phrase adds to those inside it."""
    return max(0, worth(len(phrase) + 1, True) - sum(times(p, phrase) * value(p, phrases)
                                                      for p in phrases if p != phrase and times(p, phrase)))


@pytest.mark.parametrize("phrases", LISTS)
def test_every_phrase_counts_wherever_it_stands(phrases: tuple[str, ...]) -> None:
    scorer, draw, found = HotwordScorer(phrases, PIECES, boost=1.0), random.Random(0), 0
    for _ in range(300):
        text = " ".join(draw.choice(["an", "b", "anna", "kb", "k"]) for _ in range(draw.randint(1, 7)))
        letters, pieces = "".join(f"▁{word}" for word in text.split()), list[str]()
        while letters:
            pieces.append(draw.choice([p for p in PIECES if letters.startswith(p)]))
            letters = letters[len(pieces[-1]) :]
        assert total(scorer, pieces) == sum(times(p, text) * value(p, phrases) for p in phrases)
        found += sum(times(p, text) for p in phrases)
    assert found > 20


def test_a_beam_with_hot_words_finds_them_and_leaves_other_text_alone() -> None:
    torch.manual_seed(0)
    said = ["▁b", "▁an", "na", "▁k"]
    lp = torch.full((1, 12, len(PIECES) + 1), -8.0)
    for i, piece in enumerate(said):
        lp[0, 3 * i, PIECES.index(piece)] = 0.0
        lp[0, [3 * i + 1, 3 * i + 2], len(PIECES)] = 0.0
    lp[0, 6, PIECES.index("n")] = 1.5  # the acoustics would rather hear "ann"

    def text(scorer: HotwordScorer | SumScorer | None) -> str:
        stage = CtcBeam(lambda x: x.log_softmax(-1), len(PIECES), scorer=scorer)
        y, n = stage.step(lp, stage.init_state(1), torch.tensor([12]), torch.tensor([True]))
        return VOCABULARY.text(t.token for t in tokens_of(y, n, 0))

    anna = HotwordScorer(["anna"], PIECES)
    assert text(None) == "b ann k"
    assert text(anna) == "b anna k"
    assert text(SumScorer([anna, ContextScorer(lambda context, token: 0.0, 1)])) == "b anna k"
    assert text(HotwordScorer(["kaka"], PIECES)) == "b ann k"


def test_a_phrase_without_letters_is_named() -> None:
    with pytest.raises(BadConfig, match="no letters"):
        HotwordScorer(["!?"], PIECES)
